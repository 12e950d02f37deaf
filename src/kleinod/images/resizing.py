"""The size at which a reference goes into the model: shrunk to an area, cropped to sixteens."""

from __future__ import annotations

import math

from PIL import Image

from kleinod.errors import InputError
from kleinod.request import MAX_ASPECT_RATIO

MAX_REFERENCE_PIXELS = 1024 * 1024
MIN_REFERENCE_SIDE_PIXELS = 64


def prepare_reference(image: Image.Image, *, max_pixels: int = MAX_REFERENCE_PIXELS) -> Image.Image:
    """Shrink to max_pixels, centre-crop to multiples of 16. Raises InputError."""
    inner = _inner_size(*image.size, max_pixels)
    if inner != image.size:
        image = image.resize(inner, Image.Resampling.LANCZOS)
    width, height = image.width // 16 * 16, image.height // 16 * 16
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def prepared_size(
    width: int, height: int, *, max_pixels: int = MAX_REFERENCE_PIXELS
) -> tuple[int, int]:
    """The size that `prepare_reference` gives a picture of this size. Raises InputError."""
    inner = _inner_size(width, height, max_pixels)
    return inner[0] // 16 * 16, inner[1] // 16 * 16


def _inner_size(width: int, height: int, max_pixels: int) -> tuple[int, int]:
    """Shrunk to max_pixels, not yet cropped."""
    if min(width, height) < MIN_REFERENCE_SIDE_PIXELS:
        raise InputError(f"reference_images: {width}x{height} is under 64 pixels; enlarge it")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"reference_images: {width}x{height} is longer than 8:1; crop it")
    if width * height <= max_pixels:
        return width, height
    scale = math.sqrt(max_pixels / (width * height))
    return int(width * scale), int(height * scale)
