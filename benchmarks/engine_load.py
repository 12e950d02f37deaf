"""Pictures per second and seconds of waiting with many clients of one engine in this process.

    python benchmarks/engine_load.py [--clients 1 8 32 64] [--seconds 10] [--threads 2]
    python benchmarks/engine_load.py --memory 2000

A client asks for a picture, waits for it, and asks for the next; each prompt is another one. Each
row is one engine: warmed up, then measured for some seconds. `others` is the share of the machine's
processors that other processes took meanwhile: a row with more than a few per cent is worth little.
"""

import argparse
import itertools
import json
import sys
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

import kleinod
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.engine import Engine, EngineOptions, Finished, Mailbox

THINGS = ("fox", "owl", "cat", "apple", "ship", "house", "tree", "cup", "star", "key", "fish")
COLOURS = ("red", "blue", "green", "black", "white", "yellow", "purple", "orange")
STYLES = ("", ", 3D style", ", flat", ", in the middle", ", small")
WARM_UP_SECONDS = 2.0
MEMORY_CLIENTS = 16


@dataclass(frozen=True)
class Row:
    """What one engine did under one load."""

    clients: int
    is_batching: bool
    pictures: int
    pictures_per_second: float
    p50_seconds: float
    p99_seconds: float
    pictures_per_pass: float
    others: float


class Clients:
    """Threads that ask an engine for one picture after the other until they are told to stop."""

    def __init__(self, engine: Engine, count: int, options: argparse.Namespace) -> None:
        self.engine = engine
        self.fields = {
            "width": options.size,
            "height": options.size,
            "num_inference_steps": options.steps,
        }
        self.waits: list[tuple[float, float]] = []  # when it came, how long it took
        self._numbers = itertools.count()
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(f"{i}",)) for i in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each have its last picture."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()

    def _ask(self, key: str) -> None:
        while not self._is_over.is_set():
            number = next(self._numbers)
            mailbox = Mailbox()
            start = time.perf_counter()
            request = kleinod.ImageRequest(prompt(number), seed=number, **self.fields)
            self.engine.submit(request, key=key, on_event=mailbox.put)
            *_, end = mailbox
            assert isinstance(end, Finished), end
            now = time.perf_counter()
            self.waits.append((now, now - start))


def prompt(number: int) -> str:
    """One of 440, so that hardly any is still known."""
    rest, thing = divmod(number, len(THINGS))
    style, colour = divmod(rest, len(COLOURS))
    return f"a {THINGS[thing]} on a {COLOURS[colour]} background{STYLES[style % len(STYLES)]}"


def main() -> None:
    """Parse, load, measure, print."""
    options = _parser().parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    pipeline = load_sampler(options.model, device=options.device)
    if options.memory:
        rows = _memory(pipeline, options)
        print(json.dumps(rows) if options.json else _memory_table(rows))
        return
    modes = {"on": [True], "off": [False], "both": [True, False]}[options.batching]
    pairs = itertools.product(options.clients, modes)
    rows = [_measured(pipeline, clients, is_on, options) for clients, is_on in pairs]
    print(json.dumps([asdict(row) for row in rows]) if options.json else _table(rows))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="mini")
    parser.add_argument("--device")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32, 64])
    parser.add_argument("--seconds", type=float, default=10, help="measured for each row")
    parser.add_argument("--steps", type=int, help="of a picture; default: the model's")
    parser.add_argument("--size", type=int, help="pixels of a side; default: the model's")
    parser.add_argument("--batching", choices=["on", "off", "both"], default="both")
    parser.add_argument("--max-batch", type=int, default=EngineOptions.max_batch)
    parser.add_argument("--max-batch-tokens", type=int, default=EngineOptions.max_batch_tokens)
    parser.add_argument("--threads", type=int, help="of torch; default: torch's choice")
    parser.add_argument("--memory", type=int, metavar="PICTURES", help="watch the memory instead")
    parser.add_argument("--json", action="store_true")
    return parser


def _measured(pipeline: Sampler, count: int, is_batching: bool, options: argparse.Namespace) -> Row:
    limits = EngineOptions(
        max_batch=options.max_batch,
        max_batch_tokens=options.max_batch_tokens,
        is_batching=is_batching,
    )
    with Engine(pipeline, limits) as engine:
        clients = Clients(engine, count, options)
        time.sleep(WARM_UP_SECONDS)
        before, start, processors = engine.stats(), time.perf_counter(), _processors()
        time.sleep(options.seconds)
        after, stop, others = engine.stats(), time.perf_counter(), _others(processors)
        clients.stop()
    waits = sorted(wait for end, wait in clients.waits if start <= end <= stop)
    assert waits, "no picture within the time; give more --seconds"
    passes = after.passes_total - before.passes_total
    return Row(
        clients=count,
        is_batching=is_batching,
        pictures=len(waits),
        pictures_per_second=len(waits) / (stop - start),
        p50_seconds=waits[len(waits) // 2],
        p99_seconds=waits[min(len(waits) - 1, int(len(waits) * 0.99))],
        pictures_per_pass=(after.steps_total - before.steps_total) / passes,
        others=others,
    )


def _memory(pipeline: Sampler, options: argparse.Namespace) -> list[dict[str, float]]:
    """Resident megabytes after each tenth of so many pictures."""
    rows: list[dict[str, float]] = []
    with Engine(pipeline) as engine:
        clients = Clients(engine, MEMORY_CLIENTS, options)
        for tenth in range(11):
            while engine.stats().pictures_total < options.memory * tenth // 10:
                time.sleep(0.05)
            rows.append({"pictures": engine.stats().pictures_total, "megabytes": _resident()})
            print(rows[-1], file=sys.stderr, flush=True)
        clients.stop()
    return rows


def _resident() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def _processors() -> tuple[float, float, float]:
    """Processors' seconds so far: busy for anybody, busy for this process, and all."""
    path = Path("/proc/stat")
    if not path.is_file():
        return 0.0, 0.0, 0.0
    fields = [int(field) / 100 for field in path.read_text().splitlines()[0].split()[1:9]]
    return sum(fields) - fields[3] - fields[4], time.process_time(), sum(fields)


def _others(before: tuple[float, float, float]) -> float:
    """Share of the processors' time that went to other processes since then."""
    busy, own, total = (now - then for now, then in zip(_processors(), before, strict=True))
    return max(0.0, busy - own) / total if total else float("nan")


def _table(rows: list[Row]) -> str:
    titles = ["clients", "batching", "pictures", "per s", "p50 s", "p99 s", "per pass", "others"]
    lines = [titles]
    for row in rows:
        mode = "on" if row.is_batching else "off"
        seconds = (row.pictures_per_second, row.p50_seconds, row.p99_seconds)
        cells = [f"{row.clients}", mode, f"{row.pictures}", *(f"{value:.2f}" for value in seconds)]
        lines.append([*cells, f"{row.pictures_per_pass:.1f}", f"{row.others:.0%}"])
    return "\n".join(" | ".join(cell.rjust(8) for cell in line) for line in lines)


def _memory_table(rows: list[dict[str, float]]) -> str:
    return "\n".join(f"{row['pictures']:8} pictures  {row['megabytes']:8.1f} MB" for row in rows)


if __name__ == "__main__":
    main()
