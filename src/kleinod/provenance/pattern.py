"""The watermark's pattern: a periodic tile whose spectrum has key-given phases.

The tile is a sum of NUM_COEFFICIENTS cosines of equal amplitude with whole numbers of periods per
tile, from 4 to about 28. One part has fixed phases (it tells scale and offset), the other carries
the payload's code bits in the sign. The phases come from SHAKE-256 of a key that everybody
knows: the mark says where a picture comes from, it is no secret and no proof.
"""

import hashlib
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from numpy.typing import NDArray

from kleinod.provenance import payload_code

TILE = 128
MIN_PERIODS = 4
REPEATS = 3
NUM_SYNC = 384
NUM_COEFFICIENTS = NUM_SYNC + REPEATS * payload_code.CODE_BITS
_KEY = b"kleinod watermark 1"
# the cover: tiles a side that differ, cells a tile's side, pixels a cell's side
VARIANTS, _CELLS, _CELL = 4, 32, 4
_WALSH = np.array([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, -1, 1], [1, -1, 1, -1]], np.float32)

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Coefficients:
    """Rows and columns >= 0 (periods per tile), unit phasors; the first NUM_SYNC are the sync."""

    rows: NDArray[np.intp]
    columns: NDArray[np.intp]
    phasors: NDArray[np.complex64]

    @property
    def limit(self) -> int:
        """The largest number of periods in either direction."""
        return int(max(np.abs(self.rows).max(), self.columns.max()))


@cache
def coefficients() -> Coefficients:
    """The lowest NUM_COEFFICIENTS frequencies from MIN_PERIODS on, in an order given by the key."""
    half = TILE // 2
    rows, columns = np.mgrid[1 - half : half, 0:half]
    radius = rows**2 + columns**2
    is_half_plane = (columns > 0) | (rows > 0)
    wanted = np.flatnonzero((is_half_plane & (radius >= MIN_PERIODS**2)).ravel())
    # stable: equal radii keep one order everywhere
    lowest = wanted[np.argsort(radius.ravel()[wanted], kind="stable")[:NUM_COEFFICIENTS]]
    draws = np.frombuffer(hashlib.shake_256(_KEY).digest(16 * NUM_COEFFICIENTS), "<u8")
    order = lowest[np.argsort(draws[:NUM_COEFFICIENTS], kind="stable")]
    angles = draws[NUM_COEFFICIENTS:] / 2.0**64 * 2 * np.pi
    phasors = np.exp(1j * angles).astype(np.complex64)
    return Coefficients(rows.ravel()[order], columns.ravel()[order], phasors)


@lru_cache(maxsize=16)
def tile(payload: int) -> Floats:
    """(128, 128), mean 0 and standard deviation 1."""
    known = coefficients()
    signs = np.ones(NUM_COEFFICIENTS, np.float32)
    signs[NUM_SYNC:] = np.tile(payload_code.encode(payload), REPEATS)
    spectrum = np.zeros((TILE, TILE), np.complex64)
    spectrum[known.rows, known.columns] = signs * known.phasors
    wave = np.fft.ifft2(spectrum).real
    return (wave / wave.std()).astype(np.float32)


def signs(payload: int) -> NDArray[np.int16]:
    """(128, 128) of +1 and -1."""
    return np.where(tile(payload) > 0, 1, -1).astype(np.int16)


@lru_cache(maxsize=16)
def cover(payload: int, tile_share: float) -> NDArray[np.int16]:
    """(512, 512) of +1 and -1: the tile for smooth places, in a form that lossy codecs keep.

    A quantiser drops what is small in all coefficients and keeps what is large in one. So each
    16 x 16 macroblock has the one Walsh function over its 4 x 4 cells that is strongest in the tile
    there (the cells are WebP's transform blocks, the macroblock its second transform; JPEG's 8 x 8
    blocks see a mean or a lowest frequency). The 16 tiles choose by differently weighted
    strengths, so that their errors average out. `tile_share` of the tile itself
    is added (standard deviation) before the sign is taken.
    """
    wave = tile(payload)
    cells = np.tile(wave.reshape(_CELLS, _CELL, _CELLS, _CELL).mean(axis=(1, 3)), (VARIANTS,) * 2)
    num_blocks = VARIANTS * _CELLS // 4
    blocks = cells.reshape(num_blocks, 4, num_blocks, 4).transpose(0, 2, 1, 3)
    sequences = (_WALSH @ blocks @ _WALSH).reshape(num_blocks, num_blocks, 16)
    choice = (np.abs(sequences) * _weights(sequences.shape)).argmax(axis=2)
    sign = np.sign(np.take_along_axis(sequences, choice[..., None], axis=2))[..., None]
    chosen = sign * np.einsum("iu,jv->uvij", _WALSH, _WALSH).reshape(16, 4, 4)[choice]
    coarse = chosen.transpose(0, 2, 1, 3).reshape(cells.shape)
    fine = np.tile(tile_share * wave, (VARIANTS,) * 2)
    total = coarse.repeat(_CELL, axis=0).repeat(_CELL, axis=1) + fine
    return np.where(total > 0, 1, -1).astype(np.int16)


@cache
def _weights(shape: tuple[int, ...]) -> Floats:
    """0.5 to 1, from the key; 1 in the first tile, which a small image has alone."""
    draws = np.frombuffer(hashlib.shake_256(_KEY + b" cover").digest(int(np.prod(shape))), np.uint8)
    weights = (0.5 + draws / 510).astype(np.float32).reshape(shape)
    weights[: _CELLS // 4, : _CELLS // 4] = 1
    return weights
