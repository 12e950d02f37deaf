"""OpenAI's Images API: a request waits for its pictures, or sees them come as events.

Facts: openai-python. Bad parameters are 400 as there; what is over this server's limits is 422.
"""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from kleinod.server import context as contexts
from kleinod.server import references, request_warnings, waiting
from kleinod.server.context import Context, ContextOf, KeyId
from kleinod.server.incoming import Picture
from kleinod.server.jobs import Job, JobStatus, NewJob, StoredImage
from kleinod.server.openai_events import Told, event_stream, failure, usage
from kleinod.server.openai_models import (
    EditInputs,
    Failed,
    Format,
    GenerationInputs,
    ImageData,
    ImageOptions,
    Images,
    ModelCard,
    ModelList,
    edit_schema,
)
from kleinod.server.problems import Problem
from kleinod.server.service import ServedModel

NAME = "openai"
FORMATS: dict[str, Format] = {"*": "png", "png": "png", "jpeg": "jpeg", "webp": "webp"}
MODERATION_TOLERANCE = {"auto": 2, "low": 5}
# OpenAI's own limit of a mask is 4 MB; here a text part is a prompt at most
MAX_TEXT_PART_BYTES = 256 * 1024
MAX_TEXT_PARTS = 64
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Failed, "description": "A parameter is wrong, or a filter refused."},
    401: {"model": Failed, "description": "No valid key was given."},
    403: {"model": Failed, "description": "Without keys only this machine is answered."},
    503: {"model": Failed, "description": "Not ready yet, or stopping."},
}
_IMAGE_ERRORS = ERRORS | {
    404: {"model": Failed, "description": "No such model."},
    413: {"model": Failed, "description": "The body is too large."},
    422: {"model": Failed, "description": "A picture cannot be used, or a limit is passed."},
    429: {"model": Failed, "description": "Too many; Retry-After says when to try again."},
    500: {"model": Failed, "description": "The painting failed."},
    200: {
        "model": Images,
        "description": "Pictures; with `stream` events; with `Accept: image/…` one picture's file.",
        "content": {
            "text/event-stream": {"schema": waiting.EVENT_SCHEMA},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    },
}
_EDIT_BODY = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": edit_schema()}},
    }
}
router = APIRouter(tags=["OpenAI"])


@router.post("/v1/images/generations", response_model=Images, responses=_IMAGE_ERRORS)
async def generations(
    inputs: GenerationInputs, request: Request, context: ContextOf, key_id: KeyId
) -> Response:
    """Text to picture."""
    model = contexts.served(context, inputs.model, status=404)
    tolerance = MODERATION_TOLERANCE[inputs.moderation or "auto"]
    told = _told(inputs, model, (), kind="image_generation", accept=_wanted_file(request))
    job = await _accepted(inputs, told, context, key_id=key_id, tolerance=tolerance)
    return await _answer(job, told, request, context)


@router.post(
    "/v1/images/edits",
    response_model=Images,
    responses=_IMAGE_ERRORS,
    openapi_extra=_EDIT_BODY,
)
async def edits(request: Request, context: ContextOf, key_id: KeyId) -> Response:
    """Change pictures, or draw from them."""
    form = request.form(
        max_files=context.settings.max_references + 8,
        max_fields=MAX_TEXT_PARTS,
        max_part_size=MAX_TEXT_PART_BYTES,
    )
    async with form as parts:
        inputs = _edit_inputs(parts)
        model = contexts.served(context, inputs.model, status=404)
        pictures = await references.of_uploads(_files(parts), context.settings)
    told = _told(inputs, model, pictures, kind="image_edit", accept=_wanted_file(request))
    job = await _accepted(inputs, told, context, key_id=key_id, tolerance=2)
    return await _answer(job, told, request, context)


@router.get("/v1/models", responses=ERRORS)
async def models(context: ContextOf) -> ModelList:
    """The models that are served, the default one first."""
    return ModelList(data=[_card(model) for model in context.service.models()])


@router.get(
    "/v1/models/{model}",
    responses=ERRORS | {404: {"model": Failed, "description": "No such model."}},
)
async def model(
    model: Annotated[str, Path(description="A model's name.")], context: ContextOf
) -> ModelCard:
    """One of them."""
    return _card(contexts.served(context, model, status=404))


def _card(model: ServedModel) -> ModelCard:
    info = model.info
    return ModelCard(
        id=model.name,
        created=0,
        owned_by="kleinod",
        license=info.license,
        default_size=info.default_size,
        steps=info.num_inference_steps,
        is_distilled=info.is_distilled,
    )


def _edit_inputs(parts: FormData) -> EditInputs:
    """The text parts, checked. Raises Problem and RequestValidationError."""
    for name in ("mask", "markup"):
        if name in parts:
            message = f"{name}: klein cannot paint into a part of a picture yet; leave it out"
            raise Problem(400, message, param=name, code="unsupported_parameter")
    texts = {
        name: value
        for name, value in parts.items()
        if isinstance(value, str) and name not in ("image", "image[]")
    }
    try:
        return EditInputs.model_validate(texts)
    except ValidationError as error:
        found = [dict(one, loc=("body", *one["loc"])) for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


def _files(parts: FormData) -> list[UploadFile]:
    """The pictures under either name, in order. Raises Problem."""
    given = [value for name, value in parts.multi_items() if name in ("image", "image[]")]
    files = [value for value in given if isinstance(value, UploadFile)]
    strays = {name for name, value in parts.multi_items() if isinstance(value, UploadFile)}
    strays -= {"image", "image[]"}
    if strays:
        name = min(strays)[:100]
        raise Problem(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if len(files) < len(given):
        raise Problem(400, "image: is no file; send it as a file part", param="image")
    if not files:
        code = "missing_required_parameter"
        raise Problem(400, "Missing required parameter: 'image'.", param="image", code=code)
    return files


def _wanted_file(request: Request) -> Format | None:
    """The picture format that Accept names, for those who want the file itself."""
    accept = request.headers.get("accept", "").split(",")[0].split(";")[0].strip().lower()
    kind = accept.removeprefix("image/")
    return FORMATS.get(kind) if kind != accept else None


def _told(
    inputs: ImageOptions,
    model: ServedModel,
    pictures: tuple[Picture, ...],
    *,
    kind: str,
    accept: Format | None,
) -> Told:
    """What the answer will say. Raises Problem."""
    stated = inputs.output_format
    if accept is not None and (
        inputs.stream or (inputs.n or 1) > 1 or stated not in (None, accept)
    ):
        message = "Accept asks for one file; leave out stream, n and another output_format"
        raise Problem(400, message, param="n", code="invalid_value")
    output_format: Format = stated or accept or "png"
    if output_format == "png" and inputs.output_compression not in (None, 100):
        message = "output_compression is for jpeg and webp; png loses nothing"
        raise Problem(400, message, param="output_compression", code="invalid_value")
    return Told(
        kind=kind,
        output_format=output_format,
        quality=inputs.told_quality(),
        model=model,
        pictures=pictures,
        is_stream=bool(inputs.stream),
        num_partial_images=inputs.partial_images or 0,
        is_url=inputs.response_format == "url",
        is_file=accept is not None,
    )


async def _accepted(
    inputs: ImageOptions, told: Told, context: Context, *, key_id: str, tolerance: int
) -> Job:
    contexts.check_prompt(inputs.prompt, context)
    contexts.check_steps(inputs.steps, context)
    n, limit = inputs.n or 1, context.settings.max_images
    if n > limit:
        raise Problem(422, f"n: {n} is over the limit of {limit}; ask for fewer", param="n")
    width, height = inputs.sides()
    contexts.check_size((width, height), told.model, context)
    new = NewJob(
        key_id=key_id,
        api=NAME,
        model=told.model.name,
        request={
            "prompt": inputs.prompt,
            "width": width,
            "height": height,
            "num_inference_steps": inputs.num_steps(told.model.info.num_inference_steps),
            "guidance_scale": inputs.guidance,
            "seed": inputs.seed,
            "num_images": n,
        },
        references=tuple(picture.data for picture in told.pictures),
        output_format=told.output_format,
        output_quality=inputs.output_compression,
        safety_tolerance=tolerance,
        with_previews=told.is_stream and told.num_partial_images > 0,
    )
    return await context.service.accept(new)


async def _answer(job: Job, told: Told, request: Request, context: Context) -> Response:
    if told.is_stream:
        stream = waiting.EventStream(event_stream(job, told, context))
        stream.headers.update(request_warnings.headers(context.service.warnings(job)))
        return stream
    final = await waiting.ended(request, context, job)
    if final.status != JobStatus.READY:
        raise failure(final)
    warnings = context.service.warnings(final)
    warned = request_warnings.headers(warnings)
    if told.is_file:
        data = await _file(final.results[0], context)
        headers = {"X-Seed": str(final.results[0].seed), **warned}
        return Response(data, media_type=f"image/{told.output_format}", headers=headers)
    base = contexts.base_url(request, context)
    images = Images(
        created=int(final.created_at.timestamp()),
        output_format=told.output_format,
        quality=told.quality,
        size=f"{final.results[0].width}x{final.results[0].height}",
        data=[await _data(image, told, context, base) for image in final.results],
        usage=usage(final, told),
        warnings=request_warnings.values(warnings) or None,
    )
    body = images.model_dump_json(exclude_none=True)
    return Response(body, media_type="application/json", headers=warned)


async def _data(image: StoredImage, told: Told, context: Context, base: str) -> ImageData:
    if told.is_url:
        return ImageData(url=f"{base}/pictures/{context.service.signed_path(image)}")
    data = await _file(image, context)
    return ImageData(b64_json=base64.b64encode(data).decode())


async def _file(image: StoredImage, context: Context) -> bytes:
    data = await context.service.picture(image.path)
    if data is None:
        raise Problem(500, "the picture is not in the storage any more")
    return data
