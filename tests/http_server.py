"""A real `kleinod serve` process with the built-in model, for tests that speak HTTP to it."""

import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

# for whatever is waited for, on a machine that has much else to do
PATIENCE_SECONDS = 300
# paints in a fraction of a second
SMALL = {"prompt": "a fox", "width": 64, "height": 64, "steps": 1, "seed": 7}


@dataclass(frozen=True)
class Server:
    """A running process: its address, its greeting, where its log goes."""

    url: str
    greeting: list[str]
    log: Path
    process: "subprocess.Popen[str]"

    def client(self, **options: Any) -> httpx2.Client:  # noqa: ANN401 - httpx2 checks them
        """A client that knows the address."""
        return httpx2.Client(
            base_url=self.url, timeout=PATIENCE_SECONDS, trust_env=False, **options
        )

    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None


@contextmanager
def serving(folder: Path, *flags: str, **settings: object) -> Iterator[Server]:
    """`kleinod serve` on a free port until the block ends; settings go into its environment."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KLEINOD_DATA_FOLDER": str(folder)}
    environment |= {f"KLEINOD_{name.upper()}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "kleinod", "serve", "--port", "0", *flags]
    log = folder / "serve.log"
    with log.open("w") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    try:
        greeting = _greeting(process, log)
        found = re.search(r" at (http://\S+)", greeting[0])
        assert found, greeting
        yield Server(found[1], greeting, log, process)
    finally:
        process.terminate()
        try:
            process.wait(timeout=PATIENCE_SECONDS)
        finally:
            process.kill()
            assert process.stdout is not None
            process.stdout.close()


def _greeting(process: "subprocess.Popen[str]", log: Path) -> list[str]:
    """The two lines that say that it is ready."""
    assert process.stdout is not None
    lines: list[str] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(lines) < 2:
        ready, _, _ = select.select([process.stdout], [], [], 1)
        line = process.stdout.readline() if ready or lines else ""
        if line:
            lines.append(line.rstrip("\n"))
        elif process.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(log.read_text())
    return lines


def finished(client: httpx2.Client, polling_url: str) -> dict[str, Any]:
    """Ask for a task of BFL's API until it has ended."""
    result: dict[str, Any] = {}

    def has_ended() -> bool:
        result.update(client.get(polling_url).json())
        return result["status"] != "Pending"

    wait_until(has_ended, f"the end of {polling_url}")
    return result


def wait_until(is_true: Callable[[], object], what: str) -> None:
    """Ask again and again; fails after a time that only a hanging server takes."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_true():
        assert time.monotonic() < deadline, f"waited {PATIENCE_SECONDS} s for {what}"
        time.sleep(0.05)


def num_jobs(client: httpx2.Client, *statuses: str) -> int:
    """How many jobs of these statuses the server's metrics count."""
    lines = client.get("/metrics").text.splitlines()
    names = [f'kleinod_stored_jobs{{status="{status}"}} ' for status in statuses]
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith(tuple(names)))
