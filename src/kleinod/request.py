"""One request in words and numbers, checked before any model is touched. No torch in here."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kleinod.errors import InputError

MAX_PIXELS = 4 * 1024 * 1024


@dataclass(frozen=True)
class Request:
    """What to paint. Sizes in pixels; None means the model's default."""

    prompt: str | tuple[str, ...]
    reference_images: tuple[Any, ...] = ()
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    seed: int | None = None
    num_images: int = 1

    def validate(self) -> None:
        """Raise InputError with field, value, limit and remedy."""
        for name in ("width", "height"):
            _check_side(name, getattr(self, name))
        if (self.width or 64) * (self.height or 64) > MAX_PIXELS:
            size = f"{self.width}x{self.height}"
            raise InputError(f"width x height: {size} is over 4 megapixels; choose a smaller size")
        for name in ("num_inference_steps", "num_images"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} is under 1; give at least 1")


@dataclass(frozen=True)
class Components:
    """Where the parts of a split model lie; None: beside the transformer, as in a folder."""

    text_encoder: str | Path | None = None
    autoencoder: str | Path | None = None
    tokenizer: str | Path | None = None


def _check_side(name: str, value: int | None) -> None:
    if value is None:
        return
    if value < 64:
        raise InputError(f"{name}: {value} is under 64; give 64 or more")
    if value % 16:
        nearest = round(value / 16) * 16
        raise InputError(f"{name}: {value} is not a multiple of 16; the nearest is {nearest}")
