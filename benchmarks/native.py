"""GFLOPS of our own products beside PyTorch's and oneDNN's, in turn: medians of the ratios.

    python benchmarks/native.py [--seconds 12]

bfloat16 against torch.mm; int8 against oneDNN's product of packed weights in pieces of 1,536
columns, times the tokens' scales. The best pass of each is what a free moment gave.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch

from kleinod.kernels import native
from kleinod.quantization.int8 import PACKED_AT_ONCE, quantized
from kleinod.quantization.int8_packing import PackedRows, as_read

# rows, inner, columns: klein-4b's at 256 × 256, its text encoder's, and at 1024 × 1024
SHAPES = ((768, 3072, 9216), (768, 12288, 3072), (512, 2560, 9728), (4608, 3072, 9216))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=12, help="for each shape")
    seconds = parser.parse_args().seconds
    if not native.is_usable():
        raise SystemExit(f"error: no code of our own here: {native.why_unused() or 'no AVX512'}")
    for shape in SHAPES:
        operations = 2.0 * shape[0] * shape[1] * shape[2]
        for name, pair in _pairs(*shape).items():
            theirs, ours = _in_turn(pair, seconds / 2)
            ratio = median(a / b for a, b in zip(theirs, ours, strict=True))
            best = [operations / min(times) / 1e9 for times in (theirs, ours)]
            print(*shape, name, f"ratio {ratio:.2f} best {best[0]:.0f} to {best[1]:.0f} GFLOPS")


def _pairs(rows: int, inner: int, columns: int) -> dict[str, tuple[Callable[[], object], ...]]:
    x, weight = (torch.randn(n, inner).bfloat16() for n in (rows, columns))
    out, tiles = torch.empty(rows, columns, dtype=x.dtype), native.tiled(x)
    tokens, made = quantized(x), quantized(weight)
    scale, token_scale = made.scale[:, 0].contiguous(), tokens.scale.bfloat16()
    read, quantised = as_read(tokens.codes), native.quantized(x)
    codes = native.Int8Weight(native.int8_tiles(made.codes), scale)
    parts = zip(made.codes.split(PACKED_AT_ONCE), scale.split(PACKED_AT_ONCE), strict=True)
    packs = [PackedRows(*part) for part in parts]
    return {
        "bfloat16": (
            lambda: torch.mm(x, weight.T, out=out),
            lambda: native.product(tiles, weight, out),
        ),
        "int8": (
            lambda: [pack.product(read, x.dtype).mul_(token_scale) for pack in packs],
            lambda: native.product(quantised, codes, out),
        ),
    }


def _in_turn(calls: tuple[Callable[[], object], ...], seconds: float) -> list[list[float]]:
    """Seconds of each call, after one to warm up."""
    for call in calls:
        call()
    taken: list[list[float]] = [[] for _ in calls]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for call, times in zip(calls, taken, strict=True):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
    return taken


if __name__ == "__main__":
    main()
