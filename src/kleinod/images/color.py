"""Colours as they look: pixels of every mode to 8-bit sRGB, by the ICC profile that came along.

A profile that cannot be used (broken, of another kind of colour than the pixels) is left aside:
the numbers then count as sRGB, CMYK's by Pillow's formula. Transparent pixels are laid over white.
"""

from __future__ import annotations

import io
import logging
from functools import lru_cache

import numpy as np
from PIL import Image, ImageCms

_log = logging.getLogger(__name__)

# the space that a profile names (ICC.1, 7.2.6), and the modes whose pixels it can speak of
_MODES_OF_SPACE = {"RGB": ("RGB",), "CMYK": ("CMYK",), "GRAY": ("L",), "Lab": ("LAB",)}
_ROWS_AT_ONCE_PIXELS = 2**22


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded image as 8-bit sRGB without metadata. Raises ValueError."""
    profile = image.info.get("icc_profile")
    profile = profile if isinstance(profile, bytes) and profile else None
    if image.mode.startswith(("I", "F")):
        return _without_metadata(_wide_to_rgb(image, profile))
    alpha = _alpha(image)
    rgb = _colors_to_rgb(_opaque(image), profile)
    if alpha is not None:
        rgb.putalpha(alpha)
        white = Image.new("RGBA", image.size, "white")
        rgb = Image.alpha_composite(white, rgb).convert("RGB")
    return _without_metadata(rgb)


def to_grey(image: Image.Image) -> Image.Image:
    """An image of more than 8 bits as one of 8 bits; any other as it is. Raises ValueError."""
    if not image.mode.startswith(("I", "F")):
        return image
    return to_rgb(image).getchannel(0)


def _without_metadata(image: Image.Image) -> Image.Image:
    """So that nobody converts it a second time, or turns it."""
    image.info = {}
    return image


def _alpha(image: Image.Image) -> Image.Image | None:
    if not image.has_transparency_data:
        return None
    if image.mode == "La":
        image = image.convert("LA")
    return image.convert("RGBA").getchannel("A")


def _opaque(image: Image.Image) -> Image.Image:
    """The colours alone, in the mode that a profile speaks of."""
    if image.mode in ("RGB", "L", "CMYK", "LAB"):
        return image
    if image.mode in ("1", "LA"):
        return image.convert("L")
    if image.mode == "La":
        return image.convert("LA").convert("L")
    if image.mode == "RGBa":
        image = image.convert("RGBA")
    if image.mode == "PA" or (image.mode == "P" and image.has_transparency_data):
        image = image.convert("RGBA")  # else Pillow mixes colours with the transparent one
    return image.convert("RGB")


def _colors_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """A new image."""
    transform = None if profile is None else _transform(profile, image.mode)
    if transform is None and image.mode == "LAB":  # Pillow has no formula
        lab = ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB")
    return image.convert("RGB") if transform is None else transform.apply(image)


@lru_cache(maxsize=1)
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


@lru_cache(maxsize=4)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """To sRGB; None where the profile is sRGB itself or cannot be used."""
    try:
        source = ImageCms.getOpenProfile(io.BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if mode not in _MODES_OF_SPACE.get(space, ()) and not (space == "GRAY" and "I" in mode):
            _log.info("a colour profile for %s is left aside: the pixels are %s", space, mode)
            return None
        transform = ImageCms.buildTransform(source, _srgb(), mode, "RGB")
    except (ImageCms.PyCMSError, ImportError, OSError, ValueError, TypeError) as error:
        _log.info("a broken colour profile is left aside: %s", error)
        return None
    return None if mode == "RGB" and _is_identity(transform) else transform


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Whether no colour moves by more than rounding: sRGB, by what it does and not by its name."""
    levels = np.linspace(0, 255, 9).round().astype(np.uint8)
    colors = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(27, 27, 3)
    seen = transform.apply(Image.fromarray(colors))
    return int(np.abs(np.asarray(seen).astype(int) - colors).max()) <= 1


def _wide_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """8-bit RGB of one channel: integers of 16 bits, or floats from 0 to 1 (or to 255)."""
    clear = image.info.get("transparency")
    if profile is not None and image.mode.startswith("I;16") and clear is None:
        transform = _transform(profile, image.mode)
        if transform is not None:
            return transform.apply(image)
    low, high = _range(image)
    if image.mode != "F" and (low < 0 or high > 65535):
        raise ValueError("more than 16 bits a channel")
    scale = 1 / 257 if image.mode != "F" else 255 if high <= 1 else 1
    grey = Image.new("L", image.size)
    rows = max(1, _ROWS_AT_ONCE_PIXELS // max(image.width, 1))
    for top in range(0, image.height, rows):
        values = _values(image, top, rows)
        levels = values / 257 if image.mode != "F" else values * scale
        if isinstance(clear, int):
            levels = np.where(values == clear, 255, levels)
        band = levels.clip(0, 255).round().astype(np.uint8)
        grey.paste(Image.fromarray(band), (0, top))
    return grey.convert("RGB")


def _values(image: Image.Image, top: int, rows: int) -> np.ndarray:
    bottom = min(top + rows, image.height)
    return np.asarray(image.crop((0, top, image.width, bottom))).astype(np.float64)


def _range(image: Image.Image) -> tuple[float, float]:
    """Smallest and largest value. Raises ValueError where one is not finite."""
    low, high = np.inf, -np.inf
    rows = max(1, _ROWS_AT_ONCE_PIXELS // max(image.width, 1))
    for top in range(0, image.height, rows):
        values = _values(image, top, rows)
        if not np.isfinite(values).all():
            raise ValueError("a pixel is not finite")
        low, high = min(low, values.min()), max(high, values.max())
    return float(low), float(high)
