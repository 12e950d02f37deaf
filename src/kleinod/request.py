"""One request in words and numbers, checked before any model is touched. No torch in here."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kleinod.errors import InputError

MIN_SIDE_PIXELS = 64
MAX_PIXELS = 4 * 1024 * 1024
MAX_ASPECT_RATIO = 8
MAX_STEPS = 1000
MAX_IMAGES = 256
MAX_SEED = 2**63 - 1


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
        _check_prompts(self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        if not isinstance(self.reference_images, tuple | list):
            raise InputError(f"reference_images: {self.reference_images!r} is no list; give one")
        for side in ("width", "height"):
            _check_side(side, getattr(self, side))
        if self.width and self.height:
            check_size(self.width, self.height)
        _check_count("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_count("num_images", self.num_images, 1, MAX_IMAGES)
        _check_count("seed", self.seed, 0, MAX_SEED)
        _check_guidance(self.guidance_scale)


def check_size(width: int, height: int) -> None:
    """Raise InputError for a picture over 4 megapixels or longer than 8:1."""
    if width * height > MAX_PIXELS:
        size = f"{width}x{height}"
        raise InputError(f"width x height: {size} is over 4 megapixels; choose a smaller size")
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"width x height: {width}x{height} is longer than 8:1; make it squarer")


def _check_prompts(prompts: object) -> None:
    several = prompts if isinstance(prompts, tuple | list) else (prompts,)
    if not several:
        raise InputError("prompt: none is given; give at least one, it may be empty")
    for prompt in several:
        _check_text("prompt", prompt)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name}: {value!r} is no text; give a string")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{name}: {value!r} is not valid Unicode; give UTF-8 text")


def _check_count(name: str, value: int | None, low: int, high: int) -> None:
    if value is None and name != "num_images":
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise InputError(f"{name}: {value!r} is no whole number; give one from {low} to {high}")
    if value < low:
        raise InputError(f"{name}: {value} is under {low}; give at least {low}")
    if value > high:
        raise InputError(f"{name}: {value} is over {high}; give at most {high}")


@dataclass(frozen=True)
class Components:
    """Where the parts of a split model lie; None: beside the transformer, as in a folder."""

    text_encoder: str | Path | None = None
    autoencoder: str | Path | None = None
    tokenizer: str | Path | None = None


def _check_side(name: str, value: int | None) -> None:
    if value is None:
        return
    _check_count(name, value, MIN_SIDE_PIXELS, MAX_PIXELS // MIN_SIDE_PIXELS)
    if value % 16:
        nearest = round(value / 16) * 16
        raise InputError(f"{name}: {value} is not a multiple of 16; the nearest is {nearest}")


def _check_guidance(value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"guidance_scale: {value!r} is no finite number; give 1.0 or more")
    if value < 1:
        raise InputError(f"guidance_scale: {value} is under 1; give 1.0 (none) or more")
