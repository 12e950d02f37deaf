"""Fixtures that several files share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from http_server import Server, serving
from postgres import Postgres, started
from tiny_folder import save_tiny_model

from kleinod.server.database import Database


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random model; do not change it."""
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(autouse=True, scope="session")
def own_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests neither see nor change the user's certificates and caches."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KLEINOD_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("KLEINOD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server for the whole run, started when the first test asks."""
    with started() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A new database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'kleinod.db'}"
    return request.getfixturevalue("postgres").database()


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    """The same, opened, with its tables."""
    opened = Database(database_url)
    opened.migrate()
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Iterator[Server]:
    """One `kleinod serve` with the built-in model and no keys, shared by all who speak HTTP."""
    with serving(tmp_path_factory.mktemp("server"), log_format="json") as running:
        yield running
