"""Embedding the watermark: at most one grey level where the image is smooth, more in texture.

Every pixel changes by +1 or -1: by the tile's sign in photographs, by the cover of pattern.py in
images that are mostly smooth, because JPEG 75 and WebP 80 keep it where no grain helps. Texture
hides more: there the tile itself is added, with a strength that follows the smallest second
difference around, so that neither an edge nor a gradient makes its smooth side noisy. Integers of
16 bits throughout and strips of one tile's height, which stay in the cache.
"""

import numpy as np
from numpy.typing import NDArray

from kleinod.provenance.pattern import TILE, cover, signs, tile

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
BLOCK = 4
_GAIN_BITS, _TILE_BITS = 4, 6

Pixels = NDArray[np.uint8]
Integers = NDArray[np.int16]
Floats = NDArray[np.float32]


def embed(pixels: Pixels, payload: int) -> Pixels:
    """RGB pixels (h, w, 3) with the payload in their luma."""
    height, width = pixels.shape[:2]
    texture = _smallest_around(_second_difference(pixels))
    is_smooth = bool(np.mean(texture <= GRAIN) > SMOOTH_SHARE)
    strength = _strength(texture, GRAIN if is_smooth else FLAT)
    gain = np.rint(strength * 2**_GAIN_BITS).astype(np.int16)
    wave = _repeat_across(np.rint(tile(payload) * 2**_TILE_BITS).astype(np.int16), width)
    base = _repeat_across(_base(pixels, payload) if is_smooth else signs(payload), width)
    result = np.empty_like(pixels)
    for top in range(0, height, TILE):
        rows = slice(top, min(top + TILE, height))
        fine = gain[top // BLOCK : -(-rows.stop // BLOCK)]
        fine = fine.repeat(BLOCK, axis=1).repeat(BLOCK, axis=0)[: rows.stop - top, :width]
        delta = _scale(fine, wave[: rows.stop - top])
        start = top % len(base)
        delta += base[start : start + rows.stop - top]
        _add(pixels[rows], delta, out=result[rows])
    return result


def _repeat_across(values: Integers, width: int) -> Integers:
    return np.tile(values, (1, -(-width // values.shape[1])))[:, :width]


def _scale(gain: Integers, wave: Integers) -> Integers:
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


def _smallest_around(values: Floats) -> Floats:
    """The minimum of each 3 x 3 neighbourhood: an edge is no texture."""
    padded = np.pad(values, 1, mode="edge")
    rows = np.minimum(np.minimum(padded[:-2], padded[1:-1]), padded[2:])
    return np.minimum(np.minimum(rows[:, :-2], rows[:, 1:-1]), rows[:, 2:])
