"""Pictures in and out: references made fit for the model, tensors made pictures."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from kleinod.errors import InputError

MAX_REFERENCE_PIXELS = 1024 * 1024
MIN_REFERENCE_SIDE_PIXELS = 64
MAX_ASPECT_RATIO = 8


def load_image(source: str | Path | Image.Image) -> Image.Image:
    """An RGB picture; the first frame of an animation, turned as EXIF says. Raises InputError."""
    try:
        image = source if isinstance(source, Image.Image) else Image.open(source)
        image.seek(0)
        image.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(
            f"reference_images: cannot read {source}: {error}; give a whole picture"
        ) from error
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        scaled = np.asarray(image, dtype=np.float64) / (257 if image.mode != "F" else 1)
        return Image.fromarray(scaled.clip(0, 255).round().astype(np.uint8)).convert("RGB")
    return image.convert("RGB")


def prepare_reference(image: Image.Image, *, max_pixels: int = MAX_REFERENCE_PIXELS) -> Image.Image:
    """Shrink to max_pixels, centre-crop to multiples of 16. Raises InputError."""
    width, height = image.size
    if min(width, height) < MIN_REFERENCE_SIDE_PIXELS:
        raise InputError(f"reference_images: {width}x{height} is under 64 pixels; enlarge it")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"reference_images: {width}x{height} is longer than 8:1; crop it")
    if width * height > max_pixels:
        scale = math.sqrt(max_pixels / (width * height))
        size = int(width * scale), int(height * scale)
        image = image.resize(size, Image.Resampling.LANCZOS)
    width, height = image.width // 16 * 16, image.height // 16 * 16
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, h, w), float32 in [-1, 1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 255)
    # channels last, as in diffusers: on other strides bfloat16 convolutions round otherwise
    return pixels.permute(0, 3, 1, 2) * 2 - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """Pictures of (b, 3, h, w) in [-1, 1], rounded to 8 bits."""
    pixels = (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in (pixels * 255).round().astype(np.uint8)]
