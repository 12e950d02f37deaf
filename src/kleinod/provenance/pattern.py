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
