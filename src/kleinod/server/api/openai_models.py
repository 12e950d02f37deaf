"""Requests and answers of OpenAI's Images API. A name that is not known is an error, as there.

seed, steps and guidance are kleinod's own: with OpenAI's clients they go into `extra_body`.
"""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from pydantic_core import PydanticCustomError

from kleinod.errors import InputError
from kleinod.request import ImageRequest
from kleinod.server.api.bfl_models import MAX_GUIDANCE, MAX_STEPS, Seed

AUTO = "auto"
# 128x128, and as people type it: 128X128, 128×128, 128 x 128
_SIZE = re.compile(r"([0-9]{1,5}) {0,2}[xX×*] {0,2}([0-9]{1,5})")
# for n
MAX_PICTURES = 10
MAX_PARTIAL_IMAGES = 3


def _size(value: str) -> str:
    """`auto` or WIDTHxHEIGHT, whatever sign stood between them."""
    value = value.strip()
    if value.lower() == AUTO:
        return AUTO
    found = _SIZE.fullmatch(value)
    if found is None:
        raise PydanticCustomError("size", "give auto or WIDTHxHEIGHT, such as 1024x1024")
    try:
        ImageRequest("", width=int(found[1]), height=int(found[2])).validate()
    except InputError as error:
        raise PydanticCustomError("size", "{reason}", {"reason": str(error)}) from error
    return f"{int(found[1])}x{int(found[2])}"


Size = Annotated[
    str,
    AfterValidator(_size),
    Field(json_schema_extra={"pattern": rf"^(auto|AUTO|{_SIZE.pattern})$"}),
]
Format = Literal["png", "jpeg", "webp"]
Quality = Literal["auto", "low", "medium", "high", "xhigh", "max", "standard", "hd"]
# steps, as a share of the model's own; more than its own make a distilled model no better
_STEP_SHARES = {"low": 0.5}


class ImageOptions(BaseModel):
    """What painting and editing have in common. None is as if left out."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(description="What to paint or to change.")
    model: str | None = Field(None, description="A name from /v1/models; the first if left out.")
    n: int | None = Field(1, ge=1, le=MAX_PICTURES)
    size: Size | None = Field(AUTO, description="auto: the first picture's, else the model's.")
    quality: Quality | None = Field(
        "auto", description="low: half of the model's steps; all others: the model's steps."
    )
    background: Literal["auto", "opaque"] | None = "auto"
    output_format: Format | None = None
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of jpeg and webp."
    )
    response_format: Literal["b64_json", "url"] | None = "b64_json"
    stream: bool | None = False
    partial_images: int | None = Field(
        0, ge=0, le=MAX_PARTIAL_IMAGES, description="Previews in a stream."
    )
    user: str | None = Field(None, description="Has no effect.")
    safety_identifier: str | None = Field(None, description="Has no effect.")
    negative_prompt: str | None = Field(
        None, description="kleinod's own: what not to paint; for base models only."
    )
    seed: Seed = Field(None, description="kleinod's own; -1 or left out: any.")
    steps: int | None = Field(
        None, ge=1, le=MAX_STEPS, description="kleinod's own: over what quality means."
    )
    guidance: float | None = Field(
        None, ge=1, le=MAX_GUIDANCE, allow_inf_nan=False, description="kleinod's own."
    )

    def sides(self) -> tuple[int | None, int | None]:
        """Width and height; None: automatic."""
        found = _SIZE.fullmatch(self.size or AUTO)
        return (int(found[1]), int(found[2])) if found else (None, None)

    def num_steps(self, own: int) -> int:
        """Steps, for a model that has its own number of them."""
        return self.steps or max(1, round(own * _STEP_SHARES.get(self.quality or AUTO, 1)))

    def told_quality(self) -> str:
        """The quality as an answer names it, which knows no auto."""
        quality = self.quality or AUTO
        return {"auto": "high", "standard": "high", "hd": "high"}.get(quality, quality)


class GenerationInputs(ImageOptions):
    """Text to picture."""

    moderation: Literal["auto", "low"] | None = "auto"
    style: Literal["vivid", "natural"] | None = Field(None, description="Has no effect.")


class EditInputs(ImageOptions):
    """The text parts of an edit; the pictures are parts named `image` or `image[]`."""

    input_fidelity: Literal["high", "low"] | None = Field(None, description="Has no effect.")


class ImageReference(BaseModel):
    """A picture in the JSON form of an edit."""

    model_config = ConfigDict(extra="forbid")

    type: str | None = Field(None, description="Has no effect.")
    image_url: str | None = Field(None, description="A data URL, an http(s) URL or base64.")
    file_id: str | None = Field(None, description="Refused: no files are kept here.")


class EditBody(EditInputs):
    """An edit as JSON: the pictures are `images`, or `image` as in the form."""

    images: list[ImageReference | str] | None = Field(None, description="The pictures, in order.")
    image: str | list[str] | ImageReference | list[ImageReference] | None = Field(
        None, description="The same under the form's name."
    )
    mask: Any = Field(None, description="Refused: klein paints into no part of a picture yet.")

    def sources(self) -> list[ImageReference | str]:
        """The pictures, in order, under whichever name they came."""
        found: list[ImageReference | str] = []
        for given in (self.image, self.images):
            found += given if isinstance(given, list) else [given] if given else []
        return found


class TokenDetails(BaseModel):
    """Tokens of pictures and of text."""

    image_tokens: int
    text_tokens: int


class Usage(BaseModel):
    """Tokens that the transformer saw: of the prompt, padded, of references, of pictures."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: TokenDetails
    output_tokens_details: TokenDetails


class ImageData(BaseModel):
    """One picture, in the asked form."""

    b64_json: str | None = None
    url: str | None = None


class Images(BaseModel):
    """Finished pictures."""

    created: int
    background: Literal["opaque"] = "opaque"
    output_format: Format
    quality: str
    size: str
    data: list[ImageData]
    usage: Usage
    warnings: list[dict[str, Any]] | None = Field(
        None, description="kleinod's own: what the model was not trained for, by code and message."
    )


class ModelCard(BaseModel):
    """A model that is served."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str
    root: str = Field(description="The model that answers to this name.")
    license: str = Field(description="kleinod's own, as is what follows.")
    default_size: int = Field(description="Pixels of a side, where no size is asked for.")
    steps: int = Field(description="Denoising steps, where none are asked for.")
    is_distilled: bool


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ErrorBody(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failed(BaseModel):
    """An answer that is not the asked one."""

    error: ErrorBody


def edit_schema() -> dict[str, Any]:
    """The multipart body of an edit, for the OpenAPI document."""
    schema = EditInputs.model_json_schema()
    picture = {"type": "string", "format": "binary", "contentMediaType": "image/*"}
    several = {"type": "array", "items": picture, "minItems": 1}
    properties = {"image": several, "image[]": several, **schema["properties"]}
    # a part is text: it can be left out, but it cannot be null
    flat = {name: _without_null(value) for name, value in properties.items()}
    return _edit(flat, ("image", "image[]"))


def edit_json_schema() -> dict[str, Any]:
    """The same as a JSON object."""
    picture = ImageReference.model_json_schema()
    several = {"type": "array", "items": {"anyOf": [picture, {"type": "string"}]}, "minItems": 1}
    own = {"images": several, "image": {"anyOf": [{"type": "string", "minLength": 1}, several]}}
    return _edit(EditInputs.model_json_schema()["properties"] | own, tuple(own))


def _edit(properties: dict[str, Any], pictures: tuple[str, ...]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": ["prompt"],
        "anyOf": [{"required": [name]} for name in pictures],
        "additionalProperties": False,
    }


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    if len(kinds) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name not in ("anyOf", "default")}
    return kinds[0] | rest
