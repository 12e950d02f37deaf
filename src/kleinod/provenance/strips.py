"""A pattern times a strength that follows the image, added to its pixels strip by strip.

Integers of 16 bits throughout and strips of one tile's height, which stay in the cache: 1024 x 1024
pixels take a few milliseconds. Knows nothing about payloads.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kleinod.provenance.pattern import TILE

# the side of the squares of pixels that have one strength
BLOCK = 4
_GAIN_BITS, _TILE_BITS = 4, 6

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int16]
Floats = NDArray[np.float32]


def scaled_strips(
    strength: Floats, tile: Floats, height: int, width: int
) -> Iterator[tuple[slice, Integers]]:
    """The rows of each strip, and (rows, width) of the tile times the strength, in grey levels.

    strength: (ceil(height / BLOCK), ceil(width / BLOCK)); strength times tile is below 32.
    """
    gain = np.rint(strength * 2**_GAIN_BITS).astype(np.int16)
    wave = repeat_across(np.rint(tile * 2**_TILE_BITS).astype(np.int16), width)
    for top in range(0, height, TILE):
        rows = slice(top, min(top + TILE, height))
        fine = gain[top // BLOCK : -(-rows.stop // BLOCK)]
        fine = fine.repeat(BLOCK, axis=1).repeat(BLOCK, axis=0)[: rows.stop - top, :width]
        yield rows, _scale(fine, wave[: rows.stop - top])


def repeat_across(values: Integers, width: int) -> Integers:
    """Values (h, w) beside each other, cut to a width."""
    return np.tile(values, (1, -(-width // values.shape[1])))[:, :width]


def add(pixels: Pixels, delta: Integers, *, out: Pixels) -> None:
    """Add (h, w) to every channel of pixels (h, w, 3), clipped to 0 to 255."""
    # channel by channel: broadcasting over a last axis of three is ten times slower
    for channel in range(3):
        total = pixels[..., channel] + delta
        out[..., channel] = np.clip(total, 0, 255, out=total)


def smallest_around(values: Floats) -> Floats:
    """The minimum of each 3 x 3 neighbourhood: an edge is no texture."""
    padded = np.pad(values, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])


def _scale(gain: Integers, wave: Integers) -> Integers:
    bits = _GAIN_BITS + _TILE_BITS
    product = gain * wave  # at most 2**15: see the limits of both
    product += 1 << bits - 1
    product >>= bits
    return product
