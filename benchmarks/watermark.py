"""Which attacks the watermark survives, what it costs, and how often it is seen where it is not.

    python benchmarks/watermark.py --side 512
    python benchmarks/watermark.py --side 128
    python benchmarks/watermark.py --unmarked 1000
    python benchmarks/watermark.py --time

The tables are Markdown; docs/watermark.md has them. Needs the extra "test" (scikit-image).
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import attacks

from kleinod.provenance import pattern, reading, watermark

PAYLOADS = (0x5AC396F01E87, 0x0123456789AB)


def main() -> None:
    """Print the table that was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--side", type=int, help="attack marked pictures of so many pixels a side")
    parser.add_argument("--unmarked", type=int, metavar="N", help="read N unmarked pictures")
    parser.add_argument("--time", action="store_true", help="time marking and reading")
    chosen = parser.parse_args()
    if chosen.side:
        print_attacks(chosen.side)
    if chosen.unmarked:
        print_false_alarms(chosen.unmarked)
    if chosen.time:
        print_times()


def print_attacks(side: int) -> None:
    """Payload read / mark seen, of the marked pictures, and the least agreement."""
    names, done = (*attacks.PHOTOGRAPHS, *attacks.FLAT), dict[str, list[str]]()
    print("| picture | PSNR | not read after | not seen after |\n|---|---|---|---|")
    for name in names:
        picture = attacks.picture(name, side)
        quality, unread, unseen = [], [], []
        for payload in PAYLOADS:
            marked = watermark.mark(picture, payload)
            quality.append(attacks.psnr(picture, marked))
            for attack, change in attacks.ATTACKS.items():
                found = watermark.read(change(marked))
                assert found.payload in (None, payload), "a payload that was not laid in"
                done.setdefault(attack, []).append(_letter(found))
                if found.payload is None:
                    (unread if found.is_present else unseen).append(attack)
        row = min(quality), ", ".join(sorted(set(unread))), ", ".join(sorted(set(unseen)))
        print(f"| {name} | {row[0]:.1f} | {row[1] or '–'} | {row[2] or '–'} |", flush=True)
    print(
        f"\n| attack | payload read, of {len(names) * len(PAYLOADS)} | mark seen |\n|---|---|---|"
    )
    for attack, letters in done.items():
        print(f"| {attack} | {letters.count('r')} | {len(letters) - letters.count('-')} |")


def _letter(found: reading.Reading) -> str:
    if found.payload is not None:
        return "r"
    return "s" if found.is_present else "-"


def print_false_alarms(count: int) -> None:
    """How many of so many unmarked pictures are called marked, and the nearest miss."""
    alarms, highest = 0, 0.0
    for seed in range(count):
        side = 256 if seed % 10 == 0 else 128
        found = watermark.read(attacks.unmarked(seed, side))
        alarms += found.is_present
        highest = max(highest, found.agreement)
    limits = reading.IN_PLACE_THRESHOLD, reading.MOVED_THRESHOLD, reading.SCALED_THRESHOLD
    print(f"{alarms} of {count} unmarked pictures called marked; highest agreement {highest:.3f}")
    print("thresholds in place, moved, scaled: " + ", ".join(f"{limit:.3f}" for limit in limits))


def print_times() -> None:
    """Least and median processor time at 1024 x 1024: wall time where the machine is free."""
    picture = attacks.photograph("astronaut", 1024)
    marked = watermark.mark(picture, PAYLOADS[0])
    small = marked.resize((768, 768))

    def with_new_payload() -> Image.Image:
        pattern.tile.cache_clear()
        pattern.cover.cache_clear()
        return watermark.mark(picture, PAYLOADS[0])

    print("| what | least, ms | median, ms |\n|---|---|---|")
    _print_time("mark, picture to picture", lambda: watermark.mark(picture, PAYLOADS[0]))
    _print_time("mark, a payload not seen before", with_new_payload)
    _print_time("read, as it was marked", lambda: watermark.read(marked))
    _print_time("read, resized 0.75", lambda: watermark.read(small), runs=3)
    _print_time("read, no mark", lambda: watermark.read(picture), runs=3)


def _print_time(name: str, call: Callable[[], object], runs: int = 30) -> None:
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        call()
        seconds.append(time.process_time() - start)
    print(f"| {name} | {min(seconds) * 1000:.1f} | {np.median(seconds) * 1000:.1f} |", flush=True)


if __name__ == "__main__":
    main()
