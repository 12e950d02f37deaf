"""Version 1 of embedding the watermark, up to 2026-11: receipts without a version repeat by it.

It changes flat surfaces by 1.9 grey levels (standard deviation), which can be seen.

Whole numbers of 16 bits throughout and strips of one tile's height, which stay in the cache:
1024 x 1024 pixels take a few milliseconds.
"""

import numpy as np
from numpy.typing import NDArray

from kleinod.provenance.pattern import TILE, tile

# standard deviations in grey levels
FLAT_STRENGTH = 1.9
MAX_STRENGTH = 3.6
# of a whole picture: 38.4 dB
MAX_MEAN_STRENGTH = 3.0
STRENGTH_PER_RANGE = 0.1
# where half of the mark is cut off at black or white, the rest is made stronger by at most this
MAX_COMPENSATION = 1.6
BLOCK = 4
# A picture made 10 % brighter is white wherever it was over 231. One that is nearly all white gets
# dips in blue, which the eye hardly sees: at 3 % of the pixels, where the pattern is lowest.
WHITE, DIP, WHITE_SHARE, DIP_SHARE = 232, 226, 0.75, 0.03
_GAIN_BITS, _TILE_BITS = 4, 6

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int16]
Floats = NDArray[np.float32]
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def marked(pixels: Pixels, payload: int) -> Pixels:
    """RGB pixels (h, w, 3) with the payload in their luma."""
    height, width = pixels.shape[:2]
    gain = np.rint(_strength(pixels) * 2**_GAIN_BITS).astype(np.int16)
    wave = np.rint(tile(payload) * 2**_TILE_BITS).astype(np.int16)
    wave = np.tile(wave, (1, -(-width // TILE)))[:, :width]
    result = np.empty_like(pixels)
    for top in range(0, height, TILE):
        rows = slice(top, min(top + TILE, height))
        fine = gain[top // BLOCK : -(-rows.stop // BLOCK)]
        fine = fine.repeat(BLOCK, axis=1).repeat(BLOCK, axis=0)[: rows.stop - top, :width]
        _add(pixels[rows], _delta(fine, wave[: rows.stop - top]), out=result[rows])
    if np.mean(pixels[::BLOCK, ::BLOCK].min(axis=2) >= WHITE) > WHITE_SHARE:
        _dip(result, tile(payload))
    return result


def _dip(pixels: Pixels, wave: Floats) -> None:
    """Lower the blue of white pixels where the pattern is lowest, in place."""
    height, width = pixels.shape[:2]
    is_low = wave <= np.quantile(wave, DIP_SHARE)
    rows, columns = np.nonzero(np.tile(is_low, (-(-height // TILE), -(-width // TILE))))
    inside = (rows < height) & (columns < width)
    rows, columns = rows[inside], columns[inside]
    white = pixels[rows, columns].min(axis=1) >= WHITE
    pixels[rows[white], columns[white], 2] = DIP


def _delta(gain: Integers, wave: Integers) -> Integers:
    bits = _GAIN_BITS + _TILE_BITS
    product = gain * wave  # at most 2**15: see the limits of both
    product += 1 << bits - 1
    product >>= bits
    return product


def _add(pixels: Pixels, delta: Integers, *, out: Pixels) -> None:
    # channel by channel: broadcasting over a last axis of three is ten times slower
    for channel in range(3):
        total = pixels[..., channel] + delta
        out[..., channel] = np.clip(total, 0, 255, out=total)


def _strength(pixels: Pixels) -> Floats:
    """(ceil(h/4), ceil(w/4)): standard deviation of the mark in grey levels."""
    calm = _smallest_around(_green_range(pixels))
    strength = np.minimum(FLAT_STRENGTH + STRENGTH_PER_RANGE * calm, MAX_STRENGTH)
    room = np.float32(1 / (2 * FLAT_STRENGTH))
    sample = pixels[::BLOCK, ::BLOCK].astype(np.float32)
    up = np.minimum((255 - sample) * room, 1) @ LUMA
    down = np.minimum(sample * room, 1) @ LUMA
    strength *= np.minimum(2 / (up + down), MAX_COMPENSATION)
    return strength * min(1.0, MAX_MEAN_STRENGTH / float(np.sqrt(np.mean(strength**2))))


def _green_range(pixels: Pixels) -> Floats:
    """Highest minus lowest green value of each block."""
    green = np.ascontiguousarray(pixels[..., 1])
    height, width = green.shape
    if height % BLOCK or width % BLOCK:
        green = np.pad(green, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    lines = [green[i::BLOCK] for i in range(BLOCK)]
    high, low = np.maximum.reduce(lines), np.minimum.reduce(lines)
    high = np.maximum.reduce([high[:, i::BLOCK] for i in range(BLOCK)])
    low = np.minimum.reduce([low[:, i::BLOCK] for i in range(BLOCK)])
    return (high - low).astype(np.float32)


def _smallest_around(values: Floats) -> Floats:
    """The minimum of each 3 x 3 neighbourhood: an edge is no texture."""
    padded = np.pad(values, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
