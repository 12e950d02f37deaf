"""OpenAI's Images API: a request waits for its pictures, or sees them come as events.

Facts: openai-python. Bad parameters are 400 as there; what is over this server's limits is 422.
"""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from kleinod.server.api import context as contexts
from kleinod.server.api import request_warnings, waiting
from kleinod.server.api.context import Context, ContextOf, KeyId
from kleinod.server.api.openai_edits import edit_of
from kleinod.server.api.openai_events import Told, event_stream, failure, usage
from kleinod.server.api.openai_models import (
    Failed,
    Format,
    GenerationInputs,
    ImageData,
    ImageOptions,
    Images,
    ModelCard,
    ModelList,
    edit_json_schema,
    edit_schema,
)
from kleinod.server.api.problems import Problem
from kleinod.server.job_queue.job import Job, JobStatus, NewJob, StoredImage
from kleinod.server.service import ServedModel
from kleinod.server.untrusted.bodies import JSONRoute
from kleinod.server.untrusted.incoming import Picture

NAME = "openai"
FORMATS: dict[str, Format] = {"*": "png", "png": "png", "jpeg": "jpeg", "webp": "webp"}
MODERATION_TOLERANCE = {"auto": 2, "low": 5}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Failed, "description": "A parameter is wrong, or a filter refused."},
    401: {"model": Failed, "description": "No valid key was given."},
    403: {"model": Failed, "description": "Without keys only this machine is answered."},
    503: {"model": Failed, "description": "Not ready yet, or stopping."},
}
_IMAGE_ERRORS = ERRORS | {
    404: {"model": Failed, "description": "No such model."},
    413: {"model": Failed, "description": "The body is too large."},
    415: {"model": Failed, "description": "The body is of another type than it should be."},
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
        "content": {
            "multipart/form-data": {"schema": edit_schema()},
            "application/json": {"schema": edit_json_schema()},
        },
    }
}
router = APIRouter(tags=["OpenAI"])
# the edit reads its body itself: a form, or JSON
_painting = APIRouter(tags=["OpenAI"], route_class=JSONRoute)


@_painting.post("/v1/images/generations", response_model=Images, responses=_IMAGE_ERRORS)
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
    inputs, model, pictures = await edit_of(request, context)
    told = _told(inputs, model, pictures, kind="image_edit", accept=_wanted_file(request))
    job = await _accepted(inputs, told, context, key_id=key_id, tolerance=2)
    return await _answer(job, told, request, context)


@router.get("/v1/models", responses=ERRORS)
async def models(context: ContextOf) -> ModelList:
    """The models that are served, the default one first, then other names that they answer to."""
    own = {model.name: model for model in context.service.models()}
    named = own | contexts.aliases(context)
    return ModelList(data=[_card(name, model) for name, model in named.items()])


@router.get(
    "/v1/models/{model}",
    responses=ERRORS | {404: {"model": Failed, "description": "No such model."}},
)
async def model(
    model: Annotated[str, Path(description="A model's name.")], context: ContextOf
) -> ModelCard:
    """One of them."""
    return _card(model, contexts.served(context, model, status=404))


def _card(name: str, model: ServedModel) -> ModelCard:
    info = model.info
    return ModelCard(
        id=name,
        root=model.name,
        created=0,
        owned_by="kleinod",
        license=info.license,
        default_size=info.default_size,
        steps=info.num_inference_steps,
        is_distilled=info.is_distilled,
    )


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
    unwanted = contexts.check_negative_prompt(
        inputs.negative_prompt, told.model, context, status=400
    )
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
            "negative_prompt": unwanted,
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
        warned = request_warnings.headers(context.service.warnings(job))
        headers = contexts.painted_by(job.model) | warned
        return waiting.EventStream(event_stream(job, told, context), headers)
    final = await waiting.ended(request, context, job)
    if final.status != JobStatus.READY:
        raise failure(final)
    warnings = context.service.warnings(final)
    headers = contexts.painted_by(job.model) | request_warnings.headers(warnings)
    if told.is_file:
        data = await _file(final.results[0], context)
        headers |= {"X-Seed": str(final.results[0].seed)}
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
    return Response(body, media_type="application/json", headers=headers)


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


router.include_router(_painting)
