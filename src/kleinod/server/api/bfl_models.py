"""Requests and answers of BFL's API, as documented for the hosted klein (docs.bfl.ai).

Fields of kleinod's own say so. A name that is not known is left aside and named in the answer's
X-Ignored-Fields, as clients send fields of other models; one that would change the picture and
cannot be obeyed is refused.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from kleinod.request import MAX_PIXELS, MAX_SEED, MIN_SIDE_PIXELS
from kleinod.safety.verdicts import DEFAULT_TOLERANCE

MAX_SIDE_PIXELS = MAX_PIXELS // MIN_SIDE_PIXELS
MAX_GUIDANCE = 20.0
MAX_STEPS = 1000
DEFAULT_FORMAT: Literal["jpeg"] = "jpeg"
_PICTURE_FIELD = re.compile(r"input_image(_\d+)?")
# fields of BFL's other models that ask for something klein does not do
_REFUSED = ("mask", "image_prompt", "finetune_id", "control_image", "preprocessed_image")
_REFUSED_FLAGS = ("raw", "prompt_upsampling", "transparent_bg")


def _side(value: int) -> int:
    if value == 0 or (MIN_SIDE_PIXELS <= value <= MAX_SIDE_PIXELS and value % 16 == 0):
        return value
    raise PydanticCustomError(
        "size",
        "Input should be 0 (automatic) or a multiple of 16 from {low} to {high}",
        {"low": MIN_SIDE_PIXELS, "high": MAX_SIDE_PIXELS},
    )


Side = Annotated[
    int,
    AfterValidator(_side),
    Field(
        json_schema_extra={
            "anyOf": [
                {"const": 0},
                {"minimum": MIN_SIDE_PIXELS, "maximum": MAX_SIDE_PIXELS, "multipleOf": 16},
            ]
        }
    ),
]
Reference = Annotated[
    str | None, Field(description="A picture: base64, a data URL or an http(s) URL.")
]


# -1 is how other services spell "any"
Seed = Annotated[
    int | None,
    Field(ge=-1, le=MAX_SEED),
    AfterValidator(lambda value: None if value == -1 else value),
]


class KleinInputs(BaseModel):
    """What to paint, or which pictures to change and how. null is as if left out."""

    model_config = ConfigDict(extra="allow")

    prompt: str = Field(description="What to paint or to change.")
    input_image: Reference = None
    input_image_2: Reference = None
    input_image_3: Reference = None
    input_image_4: Reference = None
    input_image_5: Reference = None
    input_image_6: Reference = None
    input_image_7: Reference = None
    input_image_8: Reference = None
    negative_prompt: str | None = Field(
        None, description="kleinod's own: what not to paint; for base models only."
    )
    seed: Seed = Field(None, description="Repeats a picture; -1 or left out: any.")
    width: Side | None = Field(0, description="Pixels; 0: the first reference's, else the model's.")
    height: Side | None = Field(
        0, description="Pixels; 0: the first reference's, else the model's."
    )
    safety_tolerance: int | None = Field(
        DEFAULT_TOLERANCE, ge=0, le=5, description="0 is strictest."
    )
    output_format: Literal["jpeg", "png", "webp"] | None = DEFAULT_FORMAT
    webhook_url: str | None = Field(None, min_length=1, max_length=2083)
    webhook_secret: str | None = Field(None, max_length=1000)
    aspect_ratio: str | None = Field(
        None,
        pattern=r"^[1-9]\d{0,2}:[1-9]\d{0,2}$",
        description="Width to height, such as 16:9, where both sizes are 0.",
    )
    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="Denoising steps; the model's if left out."
    )
    guidance: float | None = Field(
        None, ge=1, le=MAX_GUIDANCE, allow_inf_nan=False, description="For base models only."
    )
    previews: bool | None = Field(
        False, description="kleinod's own: make previews for /v1/jobs/{id}/events."
    )

    def tolerance(self) -> int:
        """The tolerance of the filters, 0 to 5."""
        stated = self.safety_tolerance
        return DEFAULT_TOLERANCE if stated is None else stated

    def references(self) -> dict[str, str]:
        """The pictures by their fields' names, in order."""
        names = [name for name in type(self).model_fields if _PICTURE_FIELD.fullmatch(name)]
        values = ((name, getattr(self, name)) for name in names)
        return {name: value for name, value in values if value is not None}

    def surplus(self) -> list[str]:
        """Fields of pictures over the eighth."""
        return [name for name, value in self._extra().items() if _is_picture(name, value)]

    def refused(self) -> str | None:
        """A field that asks for what klein does not do."""
        extra = self._extra()
        asked = [name for name in _REFUSED if extra.get(name) is not None]
        flags = [name for name in _REFUSED_FLAGS if extra.get(name)]
        return next(iter(asked + flags), None)

    def ignored(self) -> list[str]:
        """Fields that are not known and left aside."""
        return sorted(name for name, value in self._extra().items() if value is not None)

    def _extra(self) -> Mapping[str, Any]:
        return self.model_extra or {}


def _is_picture(name: str, value: object) -> bool:
    return value is not None and _PICTURE_FIELD.fullmatch(name) is not None


class Submitted(BaseModel):
    """A task was taken. status and webhook_url are there where a webhook was asked for."""

    id: str
    polling_url: str
    cost: Annotated[float, Field(description="In cents; nothing, on your own machine.")] = 0.0
    input_mp: float = Field(description="Megapixels of all references.")
    output_mp: float = Field(description="Megapixels of the picture.")
    status: str | None = None
    webhook_url: str | None = None


class TaskOutcome(BaseModel):
    """A finished picture; the sample's URL is valid for ten minutes, from when it was asked for."""

    sample: str
    prompt: str
    seed: int
    start_time: float
    end_time: float
    duration: float


TaskStatus = Literal[
    "Task not found", "Pending", "Request Moderated", "Content Moderated", "Ready", "Error"
]


class TaskResult(BaseModel):
    """Where a task stands."""

    id: str
    status: TaskStatus
    result: TaskOutcome | None = None
    progress: Annotated[float | None, Field(ge=0, le=1)] = None
    details: dict[str, Any] | None = None
    preview: dict[str, Any] | None = None


class FieldProblem(BaseModel):
    """One wrong field."""

    loc: list[str | int]
    msg: str
    type: str


class Invalid(BaseModel):
    """What is wrong with a request, field by field."""

    detail: list[FieldProblem]


class Refusal(BaseModel):
    """Why a request is not answered."""

    detail: str
