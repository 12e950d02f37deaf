"""Fixtures that several files share."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import system_programs
from http_server import Server, serving
from postgres import Postgres, started
from tiny_folder import save_tiny_model

from kleinod.kernels import native
from kleinod.server.job_queue.database import Database


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Iterator[None]:
    """The last lines say what was not tested for want of a program, and what to do next."""
    yield  # pytest's own summary
    line = system_programs.summary(terminalreporter.stats.get("skipped", []))
    if line is not None:
        terminalreporter.write_line(line, red=True, bold=True)
    if terminalreporter.stats.get("failed") or terminalreporter.stats.get("error"):
        python = os.path.relpath(sys.executable)
        terminalreporter.write_line(f"Run only what failed: {python} -m pytest --last-failed")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    """Processes that share the tests report to the first one in UTF-8, without lone surrogates."""
    report = yield
    report.sections = [
        (name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections
    ]
    return report


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


@pytest.fixture
def compiled_kernels() -> None:
    """Skips the test where the kernels were not compiled, or this processor knows none of them."""
    system_programs.require_compiled_kernels()
    if not native.is_usable():
        pytest.skip("this processor has no AMX and no AVX512 for bfloat16")


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
