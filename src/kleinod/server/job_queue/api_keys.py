"""API keys: made here, shown once, kept as a hash.

A key is `kl-ID-SECRET`. The secret has 256 random bits, so a plain SHA-256 of it cannot be guessed
back; the id only says which hash to compare with.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select

from kleinod.errors import InputError
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.tables import KeyRow

_KEY = re.compile(r"kl-([0-9a-f]{12})-([A-Za-z0-9_-]{43})")
_NOBODY = hashlib.sha256(b"").hexdigest()
MAX_NAME_CHARACTERS = 200


@dataclass(frozen=True)
class KeyRecord:
    """What is known of a key; None: the server's limit holds."""

    id: str
    name: str
    max_concurrent: int | None
    requests_per_minute: int | None
    created_at: datetime
    revoked_at: datetime | None


@dataclass(frozen=True)
class NewKey:
    """A key that was just made; the secret is nowhere else."""

    record: KeyRecord
    secret: str


class Keys:
    """The keys in a database. Every method blocks."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(
        self,
        name: str,
        *,
        max_concurrent: int | None = None,
        requests_per_minute: int | None = None,
    ) -> NewKey:
        """A new key. Raises InputError."""
        _check(name, {"concurrent": max_concurrent, "per-minute": requests_per_minute})
        identity, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
        with self._database.writing() as session:
            row = KeyRow(
                id=identity,
                name=name,
                secret_sha256=_hash(secret),
                max_concurrent=max_concurrent,
                requests_per_minute=requests_per_minute,
                created_at=self._database.now(session),
                revoked_at=None,
            )
            session.add(row)
            record = _record(row)
        return NewKey(record, f"kl-{identity}-{secret}")

    def all(self) -> list[KeyRecord]:
        """Every key, the revoked ones too, oldest first."""
        with self._database.reading() as session:
            return [_record(row) for row in session.scalars(select(KeyRow).order_by("created_at"))]

    def revoke(self, key_id: str) -> KeyRecord:
        """End a key's validity at once. Raises InputError."""
        with self._database.writing() as session:
            row = session.get(KeyRow, key_id, with_for_update=True)
            if row is None:
                raise InputError(f"key: {key_id} is unknown; `kleinod keys list` shows them")
            row.revoked_at = row.revoked_at or self._database.now(session)
            return _record(row)

    def are_configured(self) -> bool:
        """Whether any key was ever made: then one is needed, even if all are revoked."""
        with self._database.reading() as session:
            return session.scalars(select(KeyRow.id).limit(1)).first() is not None

    def is_valid(self, key_id: str) -> bool:
        """Whether the key of this id is there and not revoked."""
        with self._database.reading() as session:
            row = session.get(KeyRow, key_id)
            return row is not None and row.revoked_at is None

    def find(self, secret: str) -> KeyRecord | None:
        """The valid key with this text; the time taken tells nothing of the secret."""
        found = _KEY.fullmatch(secret)
        identity, own = found.groups() if found else ("", "")
        with self._database.reading() as session:
            row = session.get(KeyRow, identity)
        expected = row.secret_sha256 if row else _NOBODY
        is_right = hmac.compare_digest(_hash(own), expected)
        if row is None or not is_right or row.revoked_at is not None:
            return None
        return _record(row)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _check(name: str, limits: dict[str, int | None]) -> None:
    if not name.strip() or len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise InputError(f"name: {name!r}; give 1 to {MAX_NAME_CHARACTERS} printable letters")
    for option, value in limits.items():
        if value is not None and value < 1:
            raise InputError(f"{option}: {value} is under 1; give at least 1, or revoke the key")


def _record(row: KeyRow) -> KeyRecord:
    return KeyRecord(
        row.id,
        row.name,
        row.max_concurrent,
        row.requests_per_minute,
        row.created_at,
        row.revoked_at,
    )
