"""What a user asks for, and the same with every default filled in. No torch in here.

    ImageRequest -- Sampler.resolve --> ResolvedRequest

An `ImageRequest` is what a user typed: fields may be None. A `ResolvedRequest` has no optional
field: sizes and steps are chosen, the seed is drawn, references are decoded and prepared.
"""

import math
import numbers
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleinod.display import quoted
from kleinod.errors import InputError
from kleinod.keywords import check_keywords

if TYPE_CHECKING:
    from PIL import Image

MIN_SIDE_PIXELS = 64
MAX_PIXELS = 4 * 1024 * 1024
MAX_ASPECT_RATIO = 8
MAX_STEPS = 1000
MAX_IMAGES = 256
MAX_SEED = 2**63 - 1


_INTEGERS = ("width", "height", "num_inference_steps", "seed", "num_images")


def as_integer(value: Any) -> Any:  # noqa: ANN401 - what is no number is left for its own check
    """An integer of numpy, or a float such as 7.0, as Python's int; anything else as it is."""
    if isinstance(value, bool):
        return value
    if not isinstance(value, numbers.Real):
        return value
    # a float holds no large integer exactly
    if isinstance(value, numbers.Integral):
        return int(value)
    number = float(value)
    return int(number) if math.isfinite(number) and number.is_integer() else value


@check_keywords
@dataclass(frozen=True)
class ImageRequest:
    """What to generate. Sizes in pixels; None means the model's default.

    prompt: one text, or several for several images. reference_images: one picture or several: a
    path, a `PIL.Image.Image`, the bytes of a picture file, an `OpenedReference`, or what kleinod
    generated: an image, or a result with one.
    """

    prompt: str | tuple[str, ...]
    reference_images: Any = ()
    width: int | None = None
    height: int | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    negative_prompt: str = ""
    seed: int | None = None
    num_images: int = 1

    def __post_init__(self) -> None:
        """Turn the numbers of numpy and whole floats (`7.0`) into Python's."""
        for name in _INTEGERS:
            object.__setattr__(self, name, as_integer(getattr(self, name)))
        scale = self.guidance_scale
        if isinstance(scale, numbers.Real) and not isinstance(scale, bool | int):
            object.__setattr__(self, "guidance_scale", float(scale))

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompt as a tuple."""
        return (self.prompt,) if isinstance(self.prompt, str) else tuple(self.prompt)

    @property
    def references(self) -> tuple[Any, ...]:
        """The reference images as a tuple; one picture counts as a tuple of one."""
        sources = self.reference_images
        if sources is None:
            return ()
        return tuple(sources) if isinstance(sources, tuple | list) else (sources,)

    def validate(self) -> None:
        """Raise InputError with field, value, limit and remedy."""
        _check_prompts(self.prompt)
        _check_text("negative_prompt", self.negative_prompt)
        for side in ("width", "height"):
            _check_side(side, getattr(self, side))
        if self.width and self.height:
            check_size(self.width, self.height)
        _check_count("num_inference_steps", self.num_inference_steps, 1, MAX_STEPS)
        _check_count("num_images", self.num_images, 1, MAX_IMAGES)
        _check_count("seed", self.seed, 0, MAX_SEED)
        _check_last_seed(self.seed, len(self.prompts) * self.num_images)
        _check_guidance(self.guidance_scale)


@dataclass(frozen=True)
class ResolvedRequest:
    """A request with every default filled in; only `Sampler.resolve` makes one.

    references: as the autoencoder takes them, sides multiples of 16. Image i has the prompt
    `prompts[i // num_images]` and the seed `seed + i`.
    """

    prompts: tuple[str, ...]
    references: "tuple[Image.Image, ...]"
    width: int
    height: int
    num_inference_steps: int
    guidance_scale: float
    negative_prompt: str
    seed: int
    num_images: int

    @property
    def seeds(self) -> tuple[int, ...]:
        """One seed for each image."""
        return tuple(self.seed + i for i in range(len(self.prompts) * self.num_images))

    @property
    def is_guided(self) -> bool:
        """Whether each step takes a second pass, with the negative prompt."""
        return self.guidance_scale > 1

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text to encode, each once."""
        negative = (self.negative_prompt,) if self.is_guided else ()
        return tuple(dict.fromkeys((*self.prompts, *negative)))

    def prompt_of(self, index: int) -> str:
        """The prompt of image `index`, counted from 0."""
        return self.prompts[index // self.num_images]


@check_keywords
@dataclass(frozen=True)
class Components:
    """Where the parts of a split model lie; None: beside the transformer, as in a folder."""

    text_encoder: str | Path | None = None
    autoencoder: str | Path | None = None
    tokenizer: str | Path | None = None


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
        raise InputError("prompt: the list is empty; give at least one text")
    for prompt in several:
        _check_text("prompt", prompt)


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise InputError(f"{name}: {quoted(value)} is not a string; give one")
    if any("\ud800" <= letter <= "\udfff" for letter in value):
        raise InputError(f"{name}: {quoted(value)} is not valid Unicode; give UTF-8 text")


def _check_count(name: str, value: int | None, low: int, high: int) -> None:
    if value is None and name != "num_images":
        return
    if not isinstance(value, numbers.Integral) or isinstance(value, bool):
        raise InputError(
            f"{name}: {quoted(value)} is not an integer; give one from {low} to {high}"
        )
    if value < low:
        raise InputError(f"{name}: {value} is under {low}; give at least {low}")
    if value > high:
        raise InputError(f"{name}: {value} is over {high}; give at most {high}")


def _check_side(name: str, value: int | None) -> None:
    if value is None:
        return
    _check_count(name, value, MIN_SIDE_PIXELS, MAX_PIXELS // MIN_SIDE_PIXELS)
    if value % 16:
        nearest = round(value / 16) * 16
        raise InputError(f"{name}: {value} is not a multiple of 16; the nearest is {nearest}")


def _check_last_seed(seed: int | None, count: int) -> None:
    if seed is not None and seed + count - 1 > MAX_SEED:
        raise InputError(
            f"seed: {seed} with {count} images needs seeds up to {seed + count - 1}, over "
            f"{MAX_SEED}; give at most {MAX_SEED - count + 1}"
        )


def _check_guidance(value: float | None) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(
            f"guidance_scale: {quoted(value)} is not a finite number; give 1.0 or more"
        )
    if value < 1:
        raise InputError(f"guidance_scale: {value} is under 1; give 1.0 (none) or more")
