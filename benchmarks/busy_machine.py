"""Seconds of an image on a quiet machine and beside busy processes, for each way to wait.

    python benchmarks/busy_machine.py                      # mini, no and two busy processes
    python benchmarks/busy_machine.py --busy 0 4 --spin 1000 10000 --rounds 5

OpenMP's threads spin for a while at the end of each parallel region before they sleep. Where other
processes want the cores, spinning takes time from the thread that still computes. GOMP_SPINCOUNT
is how often they look; `default` is libgomp's own. Each setting runs in a process of its own, the
settings in turn; the median of all images is printed, and its ratio to the default's.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

CHILD = """
import json, sys, time
from kleinod.assembly import load_sampler
sampler = load_sampler(sys.argv[1])
seconds = []
for seed in range(int(sys.argv[2]) + 2):
    start = time.perf_counter()
    sampler.generate("a fox on a blue background", seed=seed)
    seconds.append(time.perf_counter() - start)
print(json.dumps(seconds[2:]))
"""


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2], help="busy processes")
    parser.add_argument("--spin", nargs="+", default=["default", "kleinod", "0"])
    parser.add_argument("--images", type=int, default=10, help="of one process")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(f"{'busy':>4}  {'spin':>10}  {'median s':>9}  {'of default':>10}")
    for count in options.busy:
        with busy_processes(count):
            seconds = measure(options)
        base = statistics.median(seconds[options.spin[0]])
        for spin, values in seconds.items():
            median = statistics.median(values)
            print(f"{count:4}  {spin:>10}  {median:9.4f}  {median / base:10.2f}")


def measure(options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of each image by setting, the settings in turn."""
    seconds: dict[str, list[float]] = {spin: [] for spin in options.spin}
    for _ in range(options.rounds):
        for spin in options.spin:
            command = [sys.executable, "-c", CHILD, options.model, str(options.images)]
            done = subprocess.run(
                command, env=environment(spin), capture_output=True, text=True, check=True
            )
            seconds[spin] += json.loads(done.stdout)
    return seconds


def environment(spin: str) -> dict[str, str]:
    """`default` asks for libgomp's own number, `kleinod` for what kleinod sets by itself."""
    env = {key: value for key, value in os.environ.items() if not key.startswith(("OMP_", "GOMP_"))}
    if spin == "kleinod":
        return env
    if spin == "default":
        return env | {"KLEINOD_SPIN": "default"}
    return env | {"GOMP_SPINCOUNT": spin}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """So many processes that never wait."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    main()
