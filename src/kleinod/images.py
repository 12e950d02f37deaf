"""Pictures in and out: references made fit for the model, tensors made pictures.

A reference arrives as 8-bit RGB whatever its file held. torch is imported only where a
tensor is made, so that a bad reference is refused at once.
"""

from __future__ import annotations

import io
import math
import struct
import warnings
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from kleinod.errors import InputError, NumericalError
from kleinod.request import MAX_ASPECT_RATIO

if TYPE_CHECKING:
    from torch import Tensor

MAX_REFERENCE_PIXELS = 1024 * 1024
MIN_REFERENCE_SIDE_PIXELS = 64
# Formats with a decoder of their own: EPS and the like would start another program.
READABLE_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "PPM", "AVIF")
# What Pillow's decoders raise on files that lie, besides OSError (tests/test_images.py).
BROKEN_FILE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, RuntimeError),
    *(LookupError, ArithmeticError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)


@dataclass(frozen=True)
class OpenedReference:
    """A decoded reference and the file it came from, if any."""

    image: Image.Image
    data: bytes | None
    format_name: str | None
    name: str


def open_reference(source: Any, *, default_name: str = "reference") -> OpenedReference:  # noqa: ANN401
    if isinstance(source, OpenedReference):
        return source
    if isinstance(source, bytes):
        with Image.open(io.BytesIO(source), formats=READABLE_FORMATS) as opened:
            return OpenedReference(
                _read(opened, default_name), source, str(opened.format), default_name
            )
    if isinstance(source, Image.Image):
        return OpenedReference(load_image(source), None, None, default_name)
    image = load_image(source)
    with Image.open(source) as opened:
        return OpenedReference(
            image, Path(source).read_bytes(), str(opened.format), Path(source).name
        )


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """An RGB picture; the first frame of an animation, turned as EXIF says. Raises InputError.

    Transparent pixels are laid over white, 16 bits become 8 at the same brightness.
    """
    if isinstance(source, OpenedReference):
        return source.image
    if isinstance(source, Image.Image):
        return _read(source, "the picture given")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)  # broken metadata beside whole pixels
            with Image.open(source, formats=READABLE_FORMATS) as opened:
                return _read(opened, source)
    except BROKEN_FILE as error:
        raise InputError(_unreadable(source, error)) from error


def _read(image: Image.Image, name: object) -> Image.Image:
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except BROKEN_FILE as error:
        raise InputError(_unreadable(name, error)) from error


def _unreadable(name: object, error: BaseException) -> str:
    reason = str(error) or type(error).__name__
    if isinstance(error, FileNotFoundError | IsADirectoryError | PermissionError):
        reason = str(error.strerror)
    elif isinstance(error, UnidentifiedImageError):
        reason = f"not a whole file of {', '.join(READABLE_FORMATS)}"
    return f"reference_images: cannot read {name} ({reason}); give a whole picture file"


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith(("I", "F")):
        return _from_wide(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    if image.mode == "La":
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")


def _from_wide(image: Image.Image) -> Image.Image:
    """8-bit RGB of one channel: integers of 16 bits, or floats from 0 to 1 (or to 255)."""
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a pixel is not finite")
    clear = image.info.get("transparency")
    if image.mode == "F":
        levels = values * (255 if values.max() <= 1 else 1)
    elif values.min() < 0 or values.max() > 65535:
        raise ValueError("more than 16 bits a channel")
    else:
        levels = values / 257
    levels = np.where(values == clear, 255, levels) if isinstance(clear, int) else levels
    return Image.fromarray(levels.clip(0, 255).round().astype(np.uint8)).convert("RGB")


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


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, h, w), float32 in [-1, 1]."""
    import torch

    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 255)
    # channels last, as in diffusers: on other strides bfloat16 convolutions round otherwise
    return pixels.permute(0, 3, 1, 2) * 2 - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """Pictures of (b, 3, h, w) in [-1, 1], rounded to 8 bits. Raises NumericalError."""
    if not tensor.isfinite().all():
        raise NumericalError("decoding: pixels are not finite; try dtype float32")
    pixels = (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in (pixels * 255).round().astype(np.uint8)]
