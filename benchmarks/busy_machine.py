"""A picture beside other programs, by how long OpenMP's idle threads spin before they sleep.

    python benchmarks/busy_machine.py [--rounds 5] [--counts default 0 1000 10000]

Of each count, in turn, a process that generates pictures with the built-in model: alone, then
beside as many endless loops as there are cores. `default` is what kleinod sets, `unset` is
libgomp's own 300,000. Prints the medians of all pictures in seconds, and their ratio to `unset`.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from statistics import median

COUNTS = ("unset", "default", "0", "1000", "10000", "30000")
_LOOP = "while True: pass"


def main() -> None:
    """Measure in turn, print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=12, help="of each state in each round")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--counts", nargs="+", default=COUNTS)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.child:
        print(json.dumps(measure(chosen.pictures, chosen.size)))
        return
    times: dict[str, tuple[list[float], list[float]]] = {c: ([], []) for c in chosen.counts}
    for _ in range(chosen.rounds):
        for count, (quiet, busy) in times.items():
            result = run_child(count, chosen.pictures, chosen.size)
            quiet += result["quiet"]
            busy += result["busy"]
    print_table(times)


def run_child(count: str, pictures: int, size: int) -> dict[str, list[float]]:
    """Times of one process, in seconds."""
    removed = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    if count == "unset":
        # libgomp's default where no policy is chosen
        environment["GOMP_SPINCOUNT"] = "300000"
    elif count != "default":
        environment["GOMP_SPINCOUNT"] = count
    command = [sys.executable, __file__, "--child", "--pictures", str(pictures)]
    command += ["--size", str(size)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measure(pictures: int, size: int) -> dict[str, list[float]]:
    """Seconds of each picture, alone and beside one endless loop on each core."""
    import kleinod

    sampler = kleinod.load("mini", progress=False).sampler

    def generate(seed: int) -> float:
        start = time.perf_counter()
        sampler.generate(f"a fox {seed}", width=size, height=size, seed=seed)
        return time.perf_counter() - start

    for seed in range(3):
        generate(seed)
    quiet = [generate(seed) for seed in range(pictures)]
    cores = len(os.sched_getaffinity(0))
    loops = [subprocess.Popen([sys.executable, "-c", _LOOP]) for _ in range(cores)]
    try:
        time.sleep(0.3)
        busy = [generate(seed) for seed in range(pictures)]
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()
    return {"quiet": quiet, "busy": busy}


def print_table(times: dict[str, tuple[list[float], list[float]]]) -> None:
    """Markdown: medians, and ratios to the first row."""
    print("| spin count | alone, s | ratio | busy, s | ratio | busy / alone |")
    print("|---|---|---|---|---|---|")
    first = [median(column) for column in next(iter(times.values()))]
    for count, columns in times.items():
        quiet, busy = (median(column) for column in columns)
        ratios = quiet / first[0], busy / first[1]
        print(
            f"| {count} | {quiet:.3f} | {ratios[0]:.3f} | {busy:.3f} | {ratios[1]:.2f} "
            f"| {busy / quiet:.2f} |"
        )


if __name__ == "__main__":
    main()
