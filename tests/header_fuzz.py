"""Thousands of broken headers and a few that want much memory, read in a process of its own.

`python header_fuzz.py mutants FILE` or `bomb FILE` prints what became of them. No torch in here.
"""

import json
import random
import re
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from header_files import GOOD, GOOD_GGUF, gguf_string, safetensors_bytes

from kleinod.errors import WeightsError
from kleinod.weights.headers import read_header


def _mutated(data: bytes, source: random.Random) -> bytes:
    """One to four random lies."""
    changed = bytearray(data)
    for _ in range(source.randint(1, 4)):
        kind, place = source.randrange(7), source.randrange(max(1, len(changed)))
        if kind == 0 and changed:  # a bit
            changed[place] ^= 1 << source.randrange(8)
        elif kind == 1:  # a length or an offset
            wide = source.choice((0, 1, 2**31, 2**32, 2**62, 2**63 - 1, 2**64 - 1, len(data)))
            changed[place : place + 8] = struct.pack("<Q", wide)
        elif kind == 2:  # cut short
            del changed[place:]
        elif kind == 3:  # a part twice
            changed[place:place] = changed[place : place + source.randint(1, 80)]
        elif kind == 4:  # a part away
            del changed[place : place + source.randint(1, 40)]
        else:  # a number, or a sign of JSON
            words = (
                b"-1",
                b"1e999",
                b"99999999999999999999",
                b"NaN",
                b"[",
                b"{",
                b'"',
                b"null",
                b"}",
            )
            word = source.choice(words)
            digits = [m.span() for m in re.finditer(rb"\d+", bytes(changed))]
            start, end = source.choice(digits) if digits and kind == 5 else (place, place + 1)
            changed[start:end] = word
    return bytes(changed)


def _lying_header(source: random.Random) -> bytes:
    """A header that is JSON, with values that are wrong in one place or more."""
    header = json.loads(json.dumps(GOOD))
    numbers = (-1, 0, 1, 3, 24, 28, 2**31, 2**53, 2**63, 2**64, 10**30, 1.5, None, "1", True)
    for name in ("a.weight", "b"):
        for field in ("shape", "data_offsets"):
            if source.random() < 0.4:
                header[name][field] = [source.choice(numbers) for _ in range(source.randrange(5))]
    if source.random() < 0.3:
        header["b"]["dtype"] = source.choice(("F32", "F4", "I64", "", None, 7, "F8_E4M3", "U8"))
    return safetensors_bytes(header, bytes(28))


def _mutants() -> Iterator[bytes]:
    source = random.Random(3)
    models = (safetensors_bytes(GOOD, bytes(28)), GOOD_GGUF)
    for number in range(3000):
        yield _mutated(models[number % 2], source)
    for _ in range(1000):
        yield _lying_header(source)


def _json_bomb(part: bytes, count: int = 15_900_000) -> bytes:
    return safetensors_bytes(b'{"a":[' + part * (count // len(part)) + b"0]}")


def _gguf_bomb(item_type: int, count: int, content: bytes) -> bytes:
    value = gguf_string("k") + struct.pack("<IIQ", 9, item_type, count) + content
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + value


def _gguf_names() -> bytes:
    """As many tensors of no size with as long names as the limits allow, in wide letters."""
    names = (gguf_string(f"{n:05}" + "a" * 240 + "\U0001f600") for n in range(60_000))
    entries = b"".join(name + struct.pack("<IQIQ", 1, 0, 0, 0) for name in names)
    return b"GGUF" + struct.pack("<IQQ", 3, 60_000, 0) + entries + bytes(-len(entries) % 32)


BOMBS: dict[str, Callable[[], bytes]] = {
    "zeros": lambda: _json_bomb(b"0,"),
    "numbers": lambda: _json_bomb(b"1000,"),
    "tables": lambda: _json_bomb(b"{},"),
    "lists": lambda: _json_bomb(b"[],"),
    "tables under the limit": lambda: _json_bomb(b"{},", 590_000),
    "pairs under the limit": lambda: _json_bomb(b'{"":1},', 1_300_000),
    "a wide name": lambda: safetensors_bytes(
        b'{"' + b"a" * 15_000_000 + "\U0001f600".encode() + b'":1}'
    ),
    "a wide note": lambda: safetensors_bytes(
        b'{"__metadata__":{"a":"' + b"a" * 15_000_000 + "\U0001f600".encode() + b'"}}'
    ),
    "a long list in GGUF": lambda: _gguf_bomb(0, 60_000_000, bytes(60_000_000)),
    "a vocabulary in GGUF": lambda: _gguf_bomb(8, 7_000_000, bytes(56_000_000)),
    "names in GGUF": _gguf_names,
}


def _outcome(path: Path) -> bool:
    """Whether the file is read; anything but a WeightsError of one line ends the process."""
    size = path.stat().st_size
    try:
        header = read_header(path)
    except WeightsError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000, str(error)
        return False
    assert all(entry.end <= size for entry in header.tensors.values())
    return True


def _peak_megabytes() -> int:
    # not ru_maxrss: on Linux a new process begins with that of the one that started it
    status = Path("/proc/self/status")
    if status.is_file():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) // 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def _main(what: str, path: Path) -> None:
    before, counts = _peak_megabytes(), [0, 0]
    if what == "bomb":
        counts[_outcome(path)] += 1
    else:
        for mutant in _mutants():
            path.write_bytes(mutant)
            counts[_outcome(path)] += 1
    extra = _peak_megabytes() - before
    print(json.dumps({"refused": counts[0], "read": counts[1], "extra_megabytes": extra}))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
