"""Pictures per second over HTTP, and how long one waits: 1, 8, 32, 64 clients that each wait.

    python benchmarks/http_load.py                    # its own server with mini, batching on
    python benchmarks/http_load.py --no-batching
    python benchmarks/http_load.py --url http://127.0.0.1:8686 --size 1024x1024

    python benchmarks/http_load.py --clients 8 8 8 8 --pictures 500      # is memory flat?

A client asks for one picture as a file, waits for it and asks again, so that as many requests are
under way as there are clients. Prints one line of JSON for each number of clients.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2

PROMPTS = ("a fox on a blue background", "an owl", "a red apple", "a tree on a yellow background")


def main() -> None:
    """Measure and print."""
    options = _options()
    with _server(options) as (url, process):
        for num_clients in options.clients:
            asyncio.run(_load(url, options, num_clients=1, num_pictures=2))
            found = asyncio.run(
                _load(url, options, num_clients=num_clients, num_pictures=options.pictures)
            )
            print(json.dumps(found | {"memory_mb": _memory_mb(process)}), flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", help="a running server; without it one is started")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--size", default="auto")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--pictures", type=int, default=128, help="for each number of clients")
    parser.add_argument("--no-batching", action="store_true")
    return parser.parse_args()


@contextlib.contextmanager
def _server(options: argparse.Namespace) -> Iterator[tuple[str, int | None]]:
    """An address, and the number of the process if it is ours."""
    if options.url:
        yield options.url, None
        return
    with tempfile.TemporaryDirectory() as folder:
        settings = {"DATA_FOLDER": folder, "BATCHING": str(not options.no_batching).lower()}
        environment = os.environ | {f"KLEINOD_{name}": value for name, value in settings.items()}
        command = [
            sys.executable,
            "-m",
            "kleinod",
            "serve",
            "--port",
            "0",
            "--model",
            options.model,
        ]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert process.stdout is not None
            found = re.search(r" at (http://\S+)", process.stdout.readline())
            if found is None:
                sys.exit("the server did not start; `kleinod serve` says why")
            yield found[1], process.pid
        finally:
            process.terminate()
            process.wait()


def _memory_mb(process: int | None) -> float | None:
    """What a process holds now (Linux); None where that is not told."""
    try:
        facts = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", facts)
    return round(int(found[1]) / 1000, 1) if found else None


async def _load(
    url: str, options: argparse.Namespace, *, num_clients: int, num_pictures: int
) -> dict[str, object]:
    headers = {"Accept": "image/png"}
    if options.key:
        headers["Authorization"] = f"Bearer {options.key}"
    left = iter(range(num_pictures))
    seconds: list[float] = []
    limits = httpx2.Limits(max_connections=num_clients)

    async def work(client: httpx2.AsyncClient) -> None:
        for number in left:
            body = {"prompt": PROMPTS[number % 4], "size": options.size, "seed": number}
            start = time.perf_counter()
            answer = await client.post("/v1/images/generations", json=body)
            answer.raise_for_status()
            seconds.append(time.perf_counter() - start)

    start = time.perf_counter()
    async with httpx2.AsyncClient(
        base_url=url, headers=headers, timeout=600, limits=limits, trust_env=False
    ) as client:
        await asyncio.gather(*(work(client) for _ in range(num_clients)))
    whole = time.perf_counter() - start
    percentiles = statistics.quantiles(seconds, n=100, method="inclusive")
    return {
        "clients": num_clients,
        "batching": not options.no_batching,
        "pictures": len(seconds),
        "pictures_per_second": round(len(seconds) / whole, 2),
        "p50_seconds": round(percentiles[49], 3),
        "p99_seconds": round(percentiles[98], 3),
    }


if __name__ == "__main__":
    main()
