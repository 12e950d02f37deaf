"""A PostgreSQL server of the tests' own, in a temporary folder, reached through a socket file."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from system_programs import find_postgresql

_START_SECONDS = 300


@dataclass
class Postgres:
    """A running server; each database is new and empty."""

    folder: Path
    count: int = 0

    def database(self) -> str:
        """The URL of a new database."""
        self.count += 1
        name = f"kleinod{self.count}"
        _run("createdb", "-h", str(self.folder), "-U", "postgres", name)
        return f"postgresql://postgres@/{name}?host={self.folder}"


@contextmanager
def started() -> Iterator[Postgres]:
    """Start the server, stop it at the end. Without PostgreSQL the test that asks is skipped."""
    find_postgresql("initdb")
    # not in pytest's folder: the server runs as another user, and a socket's path must be short
    folder = Path(tempfile.mkdtemp(prefix="kleinod-pg-"))
    user = _user()
    if user is not None:
        os.chown(folder, user.pw_uid, user.pw_gid)
    try:
        data = folder / "data"
        _run(
            "initdb",
            "-D",
            str(data),
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
            "-N",
            "--locale=C",
            user=user,
        )
        # no fsync: what is tested is our process's death, not the machine's
        options = ["-k", str(folder), "-h", "", "-F"]
        server = subprocess.Popen(
            [find_postgresql("postgres"), "-D", str(data), *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            **_as(user),
        )
        try:
            _wait(folder)
            yield Postgres(folder)
        finally:
            server.send_signal(signal.SIGQUIT)  # its folder goes, so nothing needs to be written
            server.wait(300)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as: it refuses to be root."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:  # not installed as Debian does
        return pwd.getpwnam("nobody")


def _as(user: pwd.struct_passwd | None) -> dict[str, int]:
    return {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}


def _run(name: str, *arguments: str, user: pwd.struct_passwd | None = None) -> None:
    command = [find_postgresql(name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd="/", **_as(user))
    assert done.returncode == 0, f"{name}: {done.stderr}"


def _wait(folder: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    command = [find_postgresql("pg_isready"), "-q", "-h", str(folder), "-U", "postgres"]
    while subprocess.run(command, check=False).returncode != 0:
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.1)
