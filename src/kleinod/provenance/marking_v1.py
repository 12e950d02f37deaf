"""Version 1 of embedding the watermark, up to 2026-11: receipts without a version repeat by it.

It changes flat surfaces by 1.9 grey levels (standard deviation), which can be seen.

Whole numbers of 16 bits throughout and strips of one tile's height, which stay in the cache:
1024 x 1024 pixels take a few milliseconds.
"""

import numpy as np

from kleinod.provenance.pattern import TILE, tile
from kleinod.provenance.strips import BLOCK, Floats, Pixels, add, scaled_strips, smallest_around

# standard deviations in grey levels
FLAT_STRENGTH = 1.9
MAX_STRENGTH = 3.6
# of a whole picture: 38.4 dB
MAX_MEAN_STRENGTH = 3.0
STRENGTH_PER_RANGE = 0.1
# where half of the mark is cut off at black or white, the rest is made stronger by at most this
MAX_COMPENSATION = 1.6
# A picture made 10 % brighter is white wherever it was over 231. One that is nearly all white gets
# dips in blue, which the eye hardly sees: at 3 % of the pixels, where the pattern is lowest.
WHITE, DIP, WHITE_SHARE, DIP_SHARE = 232, 226, 0.75, 0.03

LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def marked(pixels: Pixels, payload: int) -> Pixels:
    """RGB pixels (h, w, 3) with the payload in their luma."""
    height, width = pixels.shape[:2]
    result = np.empty_like(pixels)
    for rows, delta in scaled_strips(_strength(pixels), tile(payload), height, width):
        add(pixels[rows], delta, out=result[rows])
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


def _strength(pixels: Pixels) -> Floats:
    """(ceil(h/4), ceil(w/4)): standard deviation of the mark in grey levels."""
    calm = smallest_around(_green_range(pixels))
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
