"""A server killed at any moment loses no job that it accepted, and finishes each exactly once."""

import http.client
import io
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from sqlalchemy import select

from kleinod.provenance import container
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.claims import ALONE_PAUSE_SECONDS
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.tables import JobRow

NUM_CLIENTS, JOBS_EACH, OUTSTANDING, NUM_KILLS = 5, 10, 2, 10
# of the kills, how many come while the server starts
NUM_EARLY_KILLS = 2
# what a hanging server exceeds, and a busy machine does not
DEADLINE_SECONDS = 600


@dataclass
class Server:
    """`kleinod serve`, killed and started again on the same port, database and folder."""

    folder: Path
    database_url: str
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        environment = os.environ | {
            "OMP_NUM_THREADS": "1",
            "KLEINOD_DATA_FOLDER": str(self.folder),
            "KLEINOD_DATABASE_URL": self.database_url,
            "KLEINOD_MAX_BATCH": "4",
            # each death comes from without: on a slow machine the same job may be alone at several
            "KLEINOD_MAX_ATTEMPTS_ALONE": str(NUM_KILLS + 1),
        }
        command = [sys.executable, "-m", "kleinod", "serve", "--port", str(self.port)]
        with (self.folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "serve.log").read_text()
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def wait(self) -> None:
        """Until it paints."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not _asked(self.url + "/readyz"):
            assert self.process is not None and self.process.poll() is None
            assert time.monotonic() < deadline, (self.folder / "serve.log").read_text()
            time.sleep(0.05)


@dataclass
class Client:
    """Brings its jobs a few at a time and asks until each has ended, whatever the server does."""

    server: Server
    secret: str
    seeds: list[int]
    is_stopped: threading.Event
    # by job: its seed, how it ended, and the picture
    wanted: dict[str, int] = field(default_factory=dict)
    statuses: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)

    def run(self) -> None:
        waiting: list[str] = []
        while (self.seeds or waiting) and not self.is_stopped.is_set():
            if self.seeds and len(waiting) < OUTSTANDING:
                waiting += self.submitted()
            waiting = [job_id for job_id in waiting if not self.has_ended(job_id)]
            time.sleep(0.05)

    def submitted(self) -> list[str]:
        """The id of a new job; none if no answer came, then it is brought again."""
        size = {"width": 64, "height": 64, "steps": 2, "output_format": "png"}
        body = {"prompt": "a fox", "seed": self.seeds[0]} | size
        answer = _asked(f"{self.server.url}/v1/flux-2-klein-4b", self.secret, body)
        if not answer:
            return []
        job_id = str(json.loads(answer)["id"])
        self.wanted[job_id] = self.seeds.pop(0)
        return [job_id]

    def has_ended(self, job_id: str) -> bool:
        """Whether it has, and its picture is here."""
        answer = _asked(f"{self.server.url}/v1/get_result?id={job_id}", self.secret)
        result = json.loads(answer) if answer else {"status": "Pending"}
        if result["status"] == "Pending":
            return False
        if result["status"] == "Ready":
            picture = _asked(result["result"]["sample"])
            if not picture:
                return False
            self.pictures[job_id] = picture
        self.statuses[job_id] = result
        return True


def _asked(url: str, secret: str = "", body: dict[str, Any] | None = None) -> bytes:
    """The answer; nothing if the server is away, or not ready."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"x-key": secret, "Content-Type": "application/json"}
    request = urllib.request.Request(url, data, headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: bytes = response.read()
    except urllib.error.HTTPError as error:
        with error:
            assert error.code == 503, error.read()
        time.sleep(0.2)
        return b""
    except (OSError, http.client.HTTPException):  # killed before, or in the middle of, an answer
        return b""
    return answer


@pytest.mark.slow
@pytest.mark.timeout(3 * DEADLINE_SECONDS)
def test_killed_server_finishes_every_accepted_job_once(database_url: str, tmp_path: Path) -> None:
    chance, is_stopped = random.Random(20261125), threading.Event()
    server = Server(tmp_path, database_url, _free_port())
    secrets = _keys(database_url)
    seeds = iter(chance.sample(range(2**31), NUM_CLIENTS * JOBS_EACH))
    clients = [
        Client(server, secret, [next(seeds) for _ in range(JOBS_EACH)], is_stopped)
        for secret in secrets
    ]
    threads = [threading.Thread(target=client.run) for client in clients]
    server.start()
    try:
        for thread in threads:
            thread.start()
        _kill_often(server, clients, database_url, chance)
        deadline = time.monotonic() + DEADLINE_SECONDS
        for thread in threads:
            thread.join(max(0, deadline - time.monotonic()))
        _check_others_see_nothing(clients)
        _wait_until_drained(database_url)
    finally:
        is_stopped.set()
        server.kill()
    _check_clients(clients)
    _check_database(clients, database_url, tmp_path)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _keys(database_url: str) -> list[str]:
    database = Database(database_url)
    database.migrate()
    secrets = [Keys(database).create(f"client {n}").secret for n in range(NUM_CLIENTS)]
    database.close()
    return secrets


def _kill_often(
    server: Server, clients: list[Client], database_url: str, chance: random.Random
) -> None:
    """Sometimes while it starts, else while it paints or between two paintings."""
    early = set(chance.sample(range(NUM_KILLS), NUM_EARLY_KILLS))
    for number in range(NUM_KILLS):
        if number in early:
            time.sleep(chance.uniform(0, 3))
        else:
            server.wait()
            _wait_until_it_paints(database_url, clients)
            time.sleep(chance.uniform(0, 0.8))
        server.kill()
        server.start()


def _wait_until_it_paints(database_url: str, clients: list[Client]) -> None:
    """Until a job runs, or none is left to run; not for long, for those that were killed pause."""
    deadline = time.monotonic() + ALONE_PAUSE_SECONDS
    while "running" not in _statuses(database_url) and time.monotonic() < deadline:
        if all(len(client.statuses) == JOBS_EACH for client in clients):
            return
        time.sleep(0.05)


def _wait_until_drained(database_url: str) -> None:
    """Until every job has ended: no client waits for one whose id was lost with the connection."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while _statuses(database_url) & {"pending", "running"}:
        assert time.monotonic() < deadline, "jobs are left"
        time.sleep(0.2)


def _statuses(database_url: str) -> set[str]:
    return {str(row.status) for row in _rows(database_url)}


def _rows(database_url: str) -> list[JobRow]:
    database = Database(database_url)
    try:
        with database.reading() as session:
            return list(session.scalars(select(JobRow)).all())
    finally:
        database.close()


def _check_others_see_nothing(clients: list[Client]) -> None:
    job_id = next(iter(clients[0].wanted))
    url = f"{clients[1].server.url}/v1/get_result?id={job_id}"
    assert json.loads(_asked(url, clients[1].secret))["status"] == "Task not found"


def _check_clients(clients: list[Client]) -> None:
    """Each client has a whole picture, with the right seed, for each of its jobs."""
    ends = [result for client in clients for result in client.statuses.values()]
    assert [result for result in ends if result["status"] != "Ready"] == []
    assert len(ends) == NUM_CLIENTS * JOBS_EACH, "a job was lost"
    for client in clients:
        assert len(client.pictures) == JOBS_EACH
        for job_id, data in client.pictures.items():
            with Image.open(io.BytesIO(data)) as picture:
                picture.load()
                receipt = container.receipt_in(picture)
            assert receipt is not None and receipt["request"]["seed"] == client.wanted[job_id]


def _check_database(clients: list[Client], database_url: str, folder: Path) -> None:
    """Nothing was left, nothing is there twice; and jobs did die on the way."""
    known = {job_id for client in clients for job_id in client.wanted}
    rows = _rows(database_url)
    # a job whose id was lost with the connection was accepted as well
    assert known <= {row.id for row in rows}
    assert {row.status for row in rows} == {"ready"}
    assert sum(row.deaths for row in rows) >= NUM_KILLS / 2, "the kills hit nothing"
    files = (folder / "pictures" / "results").rglob("*.png")
    assert sorted(path.parent.name for path in files) == sorted(row.id for row in rows)
