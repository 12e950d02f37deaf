"""The database: SQLite or PostgreSQL behind SQLAlchemy, brought to the newest schema at start.

A writing transaction sees no other writer from its first statement on in SQLite (BEGIN IMMEDIATE);
in PostgreSQL it locks the rows it takes. Everything here blocks: call it in a thread.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy
from alembic import command
from alembic.config import Config
from alembic.util import CommandError
from sqlalchemy import Connection, Engine, event, func, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError
from sqlalchemy.orm import Session

from kleinod.errors import InputError

_MIGRATIONS = Path(__file__).parents[1] / "migrations"
_BUSY_SECONDS = 30
# any number that no other program on this database takes
_MIGRATION_LOCK = 0x6B6C65696E6F64
_IS_WRITING = "kleinod_is_writing"


class Database:
    """A pool of connections. Raises InputError where the URL leads nowhere."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(_parsed(url))
        self.is_sqlite = self.engine.dialect.name == "sqlite"

    def migrate(self) -> None:
        """Bring the schema to the newest version; several servers may do so at once."""
        config = migration_config()
        try:
            with self._connection(is_writing=True) as connection, connection.begin():
                if not self.is_sqlite:
                    connection.execute(select(func.pg_advisory_xact_lock(_MIGRATION_LOCK)))
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
        except DBAPIError as error:
            raise InputError(f"database_url: {_shown(self.engine.url)}: {error.orig}") from error
        except CommandError as error:
            shown = _shown(self.engine.url)
            raise InputError(f"database_url: {shown}: {error}; is it a newer kleinod's?") from error

    @contextmanager
    def writing(self) -> Iterator[Session]:
        """A transaction that changes rows; committed at the end, rolled back on an error."""
        with (
            self._connection(is_writing=True) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            with session.begin():
                yield session

    @contextmanager
    def reading(self) -> Iterator[Session]:
        """A transaction that only looks."""
        with (
            self._connection(is_writing=False) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session

    def now(self, session: Session) -> datetime:
        """The time that all servers on this database agree on."""
        if self.is_sqlite:
            return datetime.now(UTC)
        moment: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return moment.astimezone(UTC)

    def close(self) -> None:
        """Give the connections back."""
        self.engine.dispose()

    @contextmanager
    def _connection(self, *, is_writing: bool) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            yield connection.execution_options(**{_IS_WRITING: is_writing})


def migration_config() -> Config:
    """Alembic's configuration: the migrations that are in this package."""
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    return config


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise InputError(
            f"database_url: {url!r} is no URL; give postgresql+psycopg://user@host/name"
        ) from error
    if parsed.drivername == "postgresql":
        parsed = parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise InputError(f"database_url: {_shown(parsed)} is neither sqlite nor postgresql")
    return parsed


def _engine(url: URL) -> Engine:
    try:
        if url.get_backend_name() == "sqlite":
            return _sqlite(url)
        # hidden parameters: an error's text goes into the log, prompts do not
        return sqlalchemy.create_engine(
            url, pool_pre_ping=True, pool_size=10, max_overflow=20, hide_parameters=True
        )
    except (NoSuchModuleError, ImportError) as error:
        raise InputError(f"database_url: {_shown(url)}: {error}; install its driver") from error


def _sqlite(url: URL) -> Engine:
    if not url.database or url.database == ":memory:":
        raise InputError("database_url: SQLite in memory loses accepted jobs; give a file")
    try:
        Path(url.database).parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise InputError(f"database_url: {url.database} ({error}); choose another") from error
    engine = sqlalchemy.create_engine(
        url, connect_args={"timeout": _BUSY_SECONDS}, hide_parameters=True
    )
    event.listen(engine, "connect", _prepare)
    event.listen(engine, "begin", _begin)
    return engine


def _prepare(connection: Any, _record: object) -> None:  # noqa: ANN401 - sqlite3's connection
    # transactions begin where SQLAlchemy says, not where sqlite3 guesses
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    # an accepted job is on the disk before its id is told, even if the power fails
    connection.execute("PRAGMA synchronous=FULL")


def _begin(connection: Connection) -> None:
    is_writing = connection.get_execution_options().get(_IS_WRITING, True)
    connection.execute(text("BEGIN IMMEDIATE" if is_writing else "BEGIN"))


def _shown(url: URL) -> str:
    return url.render_as_string(hide_password=True)
