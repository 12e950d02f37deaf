"""Finding the watermark without the original, at any offset and at scales from 0.47 to 1.55.

The local mean is taken away, the rest weighted by one over its local variance. The spectrum is
then taken at the pattern's own frequencies: at scale 1 by folding the tiles onto each other, at
others by a product with two matrices of waves, so that no picture is resized. The agreement of
its phases with the sync phases, at every offset, is one inverse transform.

False alarms. In a picture without the mark, whatever it shows, the sync phases are independent of
the key's, which are uniform. The agreement is a = sum(w cos u) / sqrt(NUM_SYNC sum(w**2)), where
the weights w follow from magnitudes alone. It is over t with a probability of at most
exp(-NUM_SYNC * t**2) (Chernoff, with E exp(x cos u) = I0(x) <= exp(x**2 / 4)). Three questions are
asked, each at a price of FALSE_ALARMS: is it there as it was laid (1 place), moved (128**2
places), both by two weightings of the pixels; moved and scaled (128**2 at each of NUM_SCALES)? So
at most 9 in 10 million unmarked pictures are called marked. A payload that was not laid in passes
its checksum once in 65,536.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kleinod.provenance import payload_code
from kleinod.provenance.pattern import NUM_SYNC, REPEATS, TILE, coefficients

Floats = NDArray[np.float32]
Spectrum = NDArray[np.complex64]

MIN_SCALE, MAX_SCALE, SCALE_STEP = 0.47, 1.55, 0.005
NUM_SCALES = int(np.ceil(np.log(MAX_SCALE / MIN_SCALE) / SCALE_STEP))
FALSE_ALARMS = 3e-7
# sides in pixels of the part in the middle that is searched, and of the one that is read
SEARCHED_SIDE, READ_SIDE = 512, 1024
# grey levels: an edge counts as this much
_MAX_CONTRAST = 20.0


@dataclass(frozen=True)
class _Weighting:
    """Radius in pixels of the local mean; a flat place counts as noisy as `noise` grey levels."""

    radius: int
    noise: float


# what a lossy codec leaves on smooth places is coarse and faint: asked second, at scale 1 only
_FINE, _COARSE = _Weighting(2, 1.0), _Weighting(4, 0.5)


def _threshold(num_hypotheses: int) -> float:
    return float(np.sqrt(np.log(num_hypotheses / FALSE_ALARMS) / NUM_SYNC))


# twice, for both weightings
IN_PLACE_THRESHOLD = _threshold(2)
MOVED_THRESHOLD = _threshold(2 * TILE**2)
SCALED_THRESHOLD = _threshold(TILE**2 * NUM_SCALES)


@dataclass(frozen=True)
class Reading:
    """Agreement of the sync phases, 0 to 1; the payload if it could be read; the scale found."""

    is_present: bool
    payload: int | None
    agreement: float
    scale: float


@dataclass(frozen=True)
class _Place:
    """Where the pattern lies: rows and columns of a tile's start, in pixels of the pattern."""

    agreement: float
    offset: tuple[float, float]
    scale: tuple[float, float] = (1.0, 1.0)


def read(luma: Floats) -> Reading:
    """Look for the mark in grey levels (h, w)."""
    even = _evened(luma, _FINE)
    found = _read_unscaled(even) or _read_unscaled(_evened(luma, _COARSE))
    if found is None:
        return _read_at_any_scale(even)
    place, payload = found
    if payload is None:
        payload = _payload(_folded(_evened(luma, _COARSE)), place)
    if payload is None:  # a scale near 1 is seen at scale 1, but not read
        near = _best_scale(_middle(even, SEARCHED_SIDE), _scales_near_1())
        if near.agreement > place.agreement:
            place, payload = _read_scaled(_middle(even, READ_SIDE), near)
    return _reading(place, payload)


def _read_unscaled(even: Floats) -> tuple[_Place, int | None] | None:
    """Place and payload at scale 1 if the mark is there."""
    folded = _folded(even)
    place = _unscaled(_agreements(folded))
    return None if place is None else (place, _payload(folded, place))


def _read_at_any_scale(even: Floats) -> Reading:
    found = _best_scale(_middle(even, SEARCHED_SIDE), _scales())
    if found.agreement < SCALED_THRESHOLD:
        return Reading(False, None, found.agreement, found.scale[0])
    return _reading(*_read_scaled(_middle(even, READ_SIDE), found))


def _reading(place: _Place, payload: int | None) -> Reading:
    return Reading(True, payload, place.agreement, float(np.mean(place.scale)))


def _unscaled(agreements: Floats) -> _Place | None:
    """The place at scale 1 if the mark is there."""
    if agreements[0, 0] >= IN_PLACE_THRESHOLD:
        return _Place(float(agreements[0, 0]), (0.0, 0.0))
    best = _best_place(agreements)
    return best if best.agreement >= MOVED_THRESHOLD else None


def _evened(luma: Floats, weighting: _Weighting) -> Floats:
    """Local mean 0, divided by the local variance: a place counts as much as it shows the mark."""
    even = luma - _box_mean(luma, weighting.radius)
    np.clip(even, -_MAX_CONTRAST, _MAX_CONTRAST, out=even)
    noise = np.sqrt(np.maximum(_box_mean(even * even, weighting.radius), 0)) + weighting.noise
    even /= noise * noise
    return even


def _box_mean(values: Floats, radius: int) -> Floats:
    width = 2 * radius + 1
    for _ in range(2):  # down, then across
        padded = np.pad(values, ((radius + 1, radius), (0, 0)), mode="edge")
        sums = np.cumsum(padded, axis=0, dtype=np.float64)
        values = ((sums[width:] - sums[:-width]) / width).astype(np.float32).T
    return np.ascontiguousarray(values)


def _folded(even: Floats) -> Spectrum:
    """The spectrum at the pattern's frequencies, scale 1."""
    height, width = even.shape
    padded = np.pad(even, ((0, -height % TILE), (0, -width % TILE)))
    tiles = padded.reshape(padded.shape[0] // TILE, TILE, -1, TILE).sum(axis=(0, 2))
    known = coefficients()
    return np.fft.rfft2(tiles)[known.rows, known.columns].astype(np.complex64)


def _at_scale(even: Floats, scale: tuple[float, float]) -> Spectrum:
    """The same where a tile is 128 * scale pixels high and wide."""
    known, limit = coefficients(), coefficients().limit
    down = _waves(even.shape[0], np.arange(-limit, limit + 1), scale[0])
    across = _waves(even.shape[1], np.arange(limit + 1), scale[1])
    # a real product first: half the work of a complex one
    half = (even @ across.view(np.float32)).view(np.complex64)
    spectrum: Spectrum = (down.T @ half)[known.rows + limit, known.columns]
    return spectrum


def _waves(length: int, periods: NDArray[np.intp], scale: float) -> Spectrum:
    """(length, periods): exp(-2 pi i * periods * position / tile)."""
    # resizing keeps the place of a pixel's corner, not of its centre
    position = ((np.arange(length) + 0.5) / scale - 0.5) / TILE
    return np.exp(-2j * np.pi * np.outer(position, periods)).astype(np.complex64)


def _agreements(spectrum: Spectrum) -> Floats:
    """(128, 128): how well the sync phases agree at each offset, at most 1."""
    known = coefficients()
    sync = _softened(spectrum[:NUM_SYNC])
    grid = np.zeros((TILE, TILE // 2 + 1), np.complex64)
    turned = sync * known.phasors[:NUM_SYNC].conj()
    grid[known.rows[:NUM_SYNC], known.columns[:NUM_SYNC]] = turned
    # column 0 is its own mirror image: irfft2 wants both halves of it
    grid[:, 0] += grid[_MIRROR, 0].conj()
    norm = np.sqrt(NUM_SYNC * np.sum(np.abs(sync) ** 2)) + 1e-9
    return (np.fft.irfft2(grid, (TILE, TILE)) * (TILE**2 / 2 / norm)).astype(np.float32)


def _softened(spectrum: Spectrum) -> Spectrum:
    """Phases kept, magnitudes bounded: a strong line of the picture is one vote."""
    size = np.abs(spectrum)
    softened: Spectrum = spectrum / (size + np.median(size) + 1e-9)
    return softened


def _best_place(agreements: Floats, scale: tuple[float, float] = (1.0, 1.0)) -> _Place:
    row, column = np.unravel_index(agreements.argmax(), agreements.shape)
    return _Place(float(agreements[row, column]), (float(row), float(column)), scale)


def _place_at(even: Floats, scale: tuple[float, float]) -> _Place:
    return _best_place(_agreements(_at_scale(even, scale)), scale)


_MIRROR = -np.arange(TILE) % TILE


def _scales() -> Iterator[tuple[float, float]]:
    for index in range(NUM_SCALES):
        scale = float(MIN_SCALE * np.exp(SCALE_STEP * index))
        yield scale, scale


def _scales_near_1() -> Iterator[tuple[float, float]]:
    for step in range(-3, 4):
        yield 1 + step * SCALE_STEP / 2, 1 + step * SCALE_STEP / 2


def _best_scale(even: Floats, scales: Iterator[tuple[float, float]]) -> _Place:
    return max((_place_at(even, scale) for scale in scales), key=_agreement)


def _agreement(place: _Place) -> float:
    return place.agreement


def _middle(even: Floats, side: int) -> Floats:
    top, left = (max(0, length - side) // 2 for length in even.shape)
    return np.ascontiguousarray(even[top : top + side, left : left + side])


def _read_scaled(even: Floats, place: _Place) -> tuple[_Place, int | None]:
    """Follow the scales of both axes to the best agreement, and read there."""
    best = _place_at(even, place.scale)
    step = SCALE_STEP / 2
    while step * max(even.shape) > 0.25:  # pixels at the picture's edge
        for axis in (0, 1):
            tried = (_place_at(even, _changed(best.scale, axis, by)) for by in (-step, step))
            best = max((best, *tried), key=_agreement)
        step /= 2
    return best, _payload(_at_scale(even, best.scale), best)


def _changed(scale: tuple[float, float], axis: int, by: float) -> tuple[float, float]:
    down, across = scale
    return (down * (1 + by), across) if axis == 0 else (down, across * (1 + by))


def _payload(spectrum: Spectrum, place: _Place) -> int | None:
    """The payload at the best offset between pixels."""
    known = coefficients()
    turned = _softened(spectrum) * known.phasors.conj() * _shift(place.offset)
    steps = [(row / 4, column / 4) for row in range(-2, 3) for column in range(-2, 3)]
    fine = max((turned * _shift(step) for step in steps), key=_sync_sum)
    soft = fine.real[NUM_SYNC:].reshape(REPEATS, -1).sum(axis=0)
    return payload_code.decode(soft)


def _shift(offset: tuple[float, float]) -> Spectrum:
    known = coefficients()
    turns = (known.rows * offset[0] + known.columns * offset[1]) / TILE
    return np.exp(2j * np.pi * turns).astype(np.complex64)


def _sync_sum(spectrum: Spectrum) -> float:
    return float(spectrum.real[:NUM_SYNC].sum())
