"""A server killed at any moment loses no job that it accepted, and finishes each exactly once."""

import hashlib
import io
import json
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from PIL import Image
from sqlalchemy import select

from kleinod.provenance import container
from kleinod.server.database import Database
from kleinod.server.tables import JobRow

NUM_CLIENTS, JOBS_EACH, OUTSTANDING, NUM_KILLS = 5, 10, 2, 10
# of the kills, how many come while the server starts
NUM_EARLY_KILLS = 2
DEADLINE_SECONDS = 400


@dataclass
class Server:
    """The process, killed and started again on the same database and folder."""

    folder: Path
    database_url: str
    process: subprocess.Popen[bytes] | None = None
    number: int = 0

    @property
    def address(self) -> Path:
        """Another socket for each start: the old one's file stays behind a killed process."""
        return self.folder / f"{self.number}.sock"

    def start(self) -> None:
        self.number += 1
        script = Path(__file__).parent / "crash_server.py"
        command = [sys.executable, str(script), str(self.folder), self.database_url]
        self.process = subprocess.Popen([*command, str(self.address)])

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, "the server ended by itself"
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self) -> None:
        """Until it listens."""
        deadline = time.monotonic() + 60
        while not self.address.exists():
            assert time.monotonic() < deadline and self.process and self.process.poll() is None
            time.sleep(0.02)


@dataclass
class Client:
    """Brings its jobs a few at a time and asks until each has ended, whatever the server does."""

    server: Server
    key: str
    is_stopped: threading.Event
    states: dict[str, dict[str, object]] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)

    def run(self) -> None:
        waiting: list[str] = []
        seeds = [hash_of(self.key, number) for number in range(JOBS_EACH)]
        while (seeds or waiting) and not self.is_stopped.is_set():
            if seeds and len(waiting) < OUTSTANDING:
                answer = self.ask({"accept": "a fox", "seed": seeds[0]})
                if answer:
                    job_id = str(answer["id"])
                    self.seeds[job_id] = seeds.pop(0)
                    waiting.append(job_id)
                continue
            for job_id in list(waiting):
                state = self.ask({"job": job_id})
                if state and state["status"] not in ("pending", "running"):
                    self.states[job_id] = state
                    waiting.remove(job_id)
            time.sleep(0.05)

    def ask(self, question: dict[str, object]) -> dict[str, object]:
        """The answer; nothing if the server is away."""
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(30)
                connection.connect(str(self.server.address))
                connection.sendall(json.dumps(question | {"key": self.key}).encode() + b"\n")
                line = connection.makefile("rb").readline()
        except OSError:
            line = b""
        if not line.endswith(b"\n"):
            time.sleep(0.05)
            return {}
        answer: dict[str, object] = json.loads(line)
        return answer


def hash_of(key: str, number: int) -> int:
    """A seed that is no other job's."""
    return int.from_bytes(hashlib.sha256(f"{key} {number}".encode()).digest()[:4], "big")


@pytest.mark.slow
def test_killed_server_finishes_every_accepted_job_once(database_url: str, tmp_path: Path) -> None:
    server = Server(tmp_path, database_url)
    is_stopped = threading.Event()
    clients = [Client(server, f"client{number}", is_stopped) for number in range(NUM_CLIENTS)]
    threads = [threading.Thread(target=client.run) for client in clients]
    server.start()
    try:
        for thread in threads:
            thread.start()
        _kill_often(server, random.Random(20261125))
        deadline = time.monotonic() + DEADLINE_SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
    finally:
        is_stopped.set()
        server.kill()
    _check_clients(clients, tmp_path)
    _check_database(clients, database_url, tmp_path)


def _kill_often(server: Server, chance: random.Random) -> None:
    early = set(chance.sample(range(NUM_KILLS), NUM_EARLY_KILLS))
    for number in range(NUM_KILLS):
        if number in early:
            time.sleep(chance.uniform(0, 1.5))
        else:
            server.wait()
            time.sleep(chance.uniform(0, 0.8))
        server.kill()
        server.start()


def _check_clients(clients: list[Client], folder: Path) -> None:
    """Each client has a whole, right picture for each of its jobs."""
    states = [state for client in clients for state in client.states.values()]
    assert [state["error"] for state in states if state["status"] != "ready"] == []
    assert len(states) == NUM_CLIENTS * JOBS_EACH, "a job was lost"
    for client in clients:
        for job_id, state in client.states.items():
            (path,) = state["paths"]  # type: ignore[misc] - one result
            data = (folder / "pictures" / path).read_bytes()
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                receipt = container.receipt_in(picture)
            assert receipt is not None and receipt["request"]["seed"] == client.seeds[job_id]


def _check_database(clients: list[Client], database_url: str, folder: Path) -> None:
    """Nothing ran on, nothing was left, nothing is there twice; and jobs did die on the way."""
    known = {job_id for client in clients for job_id in client.states}
    database = Database(database_url)
    with database.reading() as session:
        rows = session.scalars(select(JobRow)).all()
    database.close()
    # a job whose id was lost with the connection was accepted as well
    assert known <= {row.id for row in rows}
    assert {row.status for row in rows} == {"ready"}
    assert sum(row.deaths for row in rows) >= NUM_KILLS / 2, "the kills hit nothing"
    files = [path for path in (folder / "pictures" / "results").rglob("*") if path.is_file()]
    whole = {path for path in files if path.suffix == ".png"}
    assert {path.parent.name for path in whole} == {row.id for row in rows}
    assert len(whole) == len(rows)
