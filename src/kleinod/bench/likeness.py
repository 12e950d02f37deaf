"""How alike two pictures are. Pictures are (h, w, 3), uint8; no torch in here."""

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]
_RADIUS, _SIGMA = 5, 1.5


def mean_squared_error(a: Picture, b: Picture) -> float:
    """In squared grey levels."""
    return float(np.mean((a.astype(np.float64) - b.astype(np.float64)) ** 2))


def psnr(error: float) -> float | None:
    """Decibels of a mean squared error; None where the pictures are equal."""
    return float(10 * np.log10(255**2 / error)) if error > 0 else None


def ssim(a: Picture, b: Picture) -> float:
    """Structural similarity, 1 for equal pictures; Gaussian windows of 11 pixels, sigma 1.5.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004; the mean over the three channels, without the
    border that no whole window covers.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    mean_x, mean_y = _blurred(x), _blurred(y)
    variance_x, variance_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    above = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    below = (mean_x**2 + mean_y**2 + c1) * (variance_x + variance_y + c2)
    return float(np.mean(above / below))


def _blurred(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Whole windows only."""
    offsets = np.arange(-_RADIUS, _RADIUS + 1)
    weights = np.exp(-(offsets**2) / (2 * _SIGMA**2))
    weights /= weights.sum()
    for axis in (0, 1):
        windows = np.lib.stride_tricks.sliding_window_view(x, len(weights), axis=axis)
        x = windows @ weights
    return x
