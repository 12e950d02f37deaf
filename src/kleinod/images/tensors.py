"""Pictures to tensors and back: (b, 3, h, w) in [-1, 1], channels last in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from kleinod.errors import NumericalError

if TYPE_CHECKING:
    from torch import Tensor


def to_tensor(image: Image.Image) -> Tensor:
    """(1, 3, h, w), float32 in [-1, 1]."""
    import torch

    pixels = torch.from_numpy(np.asarray(image, dtype=np.float32)[None] / 255)
    # channels last, as in diffusers: on other strides bfloat16 convolutions round otherwise
    return pixels.permute(0, 3, 1, 2) * 2 - 1


def to_images(tensor: Tensor) -> list[Image.Image]:
    """Pictures of (b, 3, h, w) in [-1, 1], rounded to 8 bits. Raises NumericalError."""
    if not tensor.isfinite().all():
        raise NumericalError("decoding: pixels are not finite")
    pixels = (tensor.float() / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(row) for row in (pixels * 255).round().astype(np.uint8)]
