"""Embedding the watermark: at most one grey level where the image is smooth, more in texture.

Every pixel changes by +1 or -1: by the tile's sign in photographs, by the cover of pattern.py in
images that are mostly smooth, because JPEG 75 and WebP 80 keep it where no grain helps. Texture
hides more: there the tile itself is added, with a strength that follows the smallest second
difference around, so that neither an edge nor a gradient makes its smooth side noisy. Integers of
16 bits throughout and strips of one tile's height, which stay in the cache.
"""

import numpy as np

from kleinod.provenance.pattern import cover, signs, tile
from kleinod.provenance.strips import (
    BLOCK,
    Floats,
    Integers,
    Pixels,
    add,
    repeat_across,
    scaled_strips,
    smallest_around,
)

# of an image in which at most GRAIN is the largest second difference, levels, nearly everywhere
GRAIN, SMOOTH_SHARE = 4, 0.75
# the same limit in all other images (photographs), whose flat places are few
FLAT = 2
# grey levels (standard deviation) of the tile in texture, per level of second difference
STRENGTH_PER_LEVEL = 1.5
MAX_STRENGTH = 2.7
# of a whole image, beside the cover
MAX_MEAN_STRENGTH = 2.3
# how much of the tile the cover holds: on white, black and pure colours, where part of it is cut
# off, a codec keeps only what is coarse
COLOUR_SHARE, CLIPPED_SHARE = 1.2, 0.8


def embed(pixels: Pixels, payload: int) -> Pixels:
    """RGB pixels (h, w, 3) with the payload in their luma."""
    height, width = pixels.shape[:2]
    texture = smallest_around(_second_difference(pixels))
    is_smooth = bool(np.mean(texture <= GRAIN) > SMOOTH_SHARE)
    strength = _strength(texture, GRAIN if is_smooth else FLAT)
    base = repeat_across(_base(pixels, payload) if is_smooth else signs(payload), width)
    result = np.empty_like(pixels)
    for rows, delta in scaled_strips(strength, tile(payload), height, width):
        start = rows.start % len(base)
        delta += base[start : start + rows.stop - rows.start]
        add(pixels[rows], delta, out=result[rows])
    return result


def _base(pixels: Pixels, payload: int) -> Integers:
    brightest = pixels[::BLOCK, ::BLOCK].max(axis=2)
    is_clipped = (brightest == 255) | (brightest == 0)
    return cover(payload, CLIPPED_SHARE if np.mean(is_clipped) > 0.5 else COLOUR_SHARE)


def _strength(texture: Floats, limit: int) -> Floats:
    """(ceil(h/4), ceil(w/4)): standard deviation of the tile in grey levels, 0 where smooth."""
    strength = np.clip((texture - limit) * STRENGTH_PER_LEVEL, 0, MAX_STRENGTH)
    mean = float(np.sqrt(np.mean(strength**2)))
    return strength * min(1.0, MAX_MEAN_STRENGTH / max(mean, 1e-9))


def _second_difference(pixels: Pixels) -> Floats:
    """The largest second difference of green in each block, down or across."""
    green = pixels[..., 1].astype(np.int16)
    height, width = green.shape
    if height % BLOCK or width % BLOCK:
        green = np.pad(green, ((0, -height % BLOCK), (0, -width % BLOCK)), mode="edge")
    lines = [green[i::BLOCK] for i in range(BLOCK)]
    down = np.maximum(abs(_bend(*lines[:3])), abs(_bend(*lines[1:])))
    down = np.maximum.reduce([down[:, i::BLOCK] for i in range(BLOCK)])
    columns = [np.ascontiguousarray(green[:, i::BLOCK]) for i in range(BLOCK)]
    across = np.maximum(abs(_bend(*columns[:3])), abs(_bend(*columns[1:])))
    across = np.maximum.reduce([across[i::BLOCK] for i in range(BLOCK)])
    return np.maximum(down, across).astype(np.float32)


def _bend(one: Integers, middle: Integers, other: Integers) -> Integers:
    difference: Integers = one + other
    difference -= middle
    difference -= middle
    return difference
