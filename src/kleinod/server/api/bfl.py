"""BFL's API: a task is submitted, asked for by its id, and its picture fetched from a signed URL.

Facts: docs.bfl.ai. A client that is written for the hosted klein works with another base URL.
"""

import math
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import JSONResponse

from kleinod.errors import InputError
from kleinod.request import ImageRequest
from kleinod.server.api import context as contexts
from kleinod.server.api import request_warnings
from kleinod.server.api.bfl_models import (
    DEFAULT_FORMAT,
    Invalid,
    KleinInputs,
    Refusal,
    Submitted,
    TaskOutcome,
    TaskResult,
    TaskStatus,
)
from kleinod.server.api.context import Context, ContextOf, KeyId
from kleinod.server.api.messages import client_message
from kleinod.server.api.problems import Problem
from kleinod.server.job_queue.job import Job, JobStatus, NewJob
from kleinod.server.service import ServedModel
from kleinod.server.untrusted import fetching, references
from kleinod.server.untrusted.bodies import JSONRoute
from kleinod.server.untrusted.incoming import Picture

NAME = "bfl"
STATUSES: dict[JobStatus, TaskStatus] = {
    JobStatus.PENDING: "Pending",
    JobStatus.RUNNING: "Pending",
    JobStatus.READY: "Ready",
    JobStatus.FAILED: "Error",
    JobStatus.CANCELLED: "Error",
    JobStatus.REQUEST_MODERATED: "Request Moderated",
    JobStatus.CONTENT_MODERATED: "Content Moderated",
}
# what every route of this API may answer
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": Refusal, "description": "The body cannot be read."},
    401: {"model": Refusal, "description": "The key is not valid."},
    403: {"model": Refusal, "description": "No key was given, or none is configured."},
    422: {"model": Invalid, "description": "A field is wrong or over a limit."},
    503: {"model": Refusal, "description": "Not ready yet, or stopping."},
}
_SUBMIT_ERRORS = ERRORS | {
    404: {"model": Refusal, "description": "No such model."},
    413: {"model": Refusal, "description": "The body is too large."},
    415: {"model": Refusal, "description": "The body is no JSON."},
    429: {"model": Refusal, "description": "Too many tasks; Retry-After says when to try again."},
}
router = APIRouter(tags=["BFL"], route_class=JSONRoute)


@router.post("/v1/flux-2-klein-4b", response_model=Submitted, responses=_SUBMIT_ERRORS)
async def klein_4b(
    inputs: KleinInputs, request: Request, context: ContextOf, key_id: KeyId
) -> Response:
    """Paint or edit with klein-4b, or with whatever klein model is loaded."""
    return await _submitted("flux-2-klein-4b", inputs, request, context, key_id)


@router.post("/v1/flux-2-klein-9b", response_model=Submitted, responses=_SUBMIT_ERRORS)
async def klein_9b(
    inputs: KleinInputs, request: Request, context: ContextOf, key_id: KeyId
) -> Response:
    """Paint or edit with klein-9b, or with whatever klein model is loaded."""
    return await _submitted("flux-2-klein-9b", inputs, request, context, key_id)


@router.post("/v1/{model}", response_model=Submitted, responses=_SUBMIT_ERRORS)
async def by_name(
    model: Annotated[str, Path(description="A name from /v1/models.")],
    inputs: KleinInputs,
    request: Request,
    context: ContextOf,
    key_id: KeyId,
) -> Response:
    """Paint or edit with a model by its own name."""
    return await _submitted(model, inputs, request, context, key_id)


@router.get("/v1/get_result", response_model=TaskResult, responses=ERRORS)
async def get_result(
    id: Annotated[str, Query(description="A task's id.")],
    request: Request,
    context: ContextOf,
    key_id: KeyId,
    response: Response,
) -> TaskResult:
    """Where a task stands; once it is ready, where its picture is."""
    job = await context.service.job(id, key_id)
    if job is None:
        return TaskResult(id=id, status="Task not found")
    response.headers.update(contexts.painted_by(job.model))
    return task_result(job, context, contexts.base_url(request, context))


async def _submitted(
    name: str, inputs: KleinInputs, request: Request, context: Context, key_id: str
) -> Response:
    model = contexts.served(context, name, status=404)
    _check(inputs, context)
    unwanted = contexts.check_negative_prompt(inputs.negative_prompt, model, context, status=422)
    sides = _sides(inputs, model, context)
    pictures = await references.of_texts(inputs.references(), context.settings)
    words = {"prompt": inputs.prompt, "negative_prompt": unwanted}
    new = _new_job(inputs, model, words | sides, pictures=pictures, key_id=key_id)
    job = await context.service.accept(new)
    base = contexts.base_url(request, context)
    has_hook = inputs.webhook_url is not None
    submitted = Submitted(
        id=job.id,
        polling_url=f"{base}/v1/get_result?id={job.id}",
        input_mp=round(sum(one.width * one.height for one in pictures) / 1e6, 3),
        output_mp=round(job.request["width"] * job.request["height"] / 1e6, 3),
        status="Pending" if has_hook else None,
        webhook_url=inputs.webhook_url,
    )
    headers = contexts.painted_by(model.name)
    if inputs.ignored():
        headers["X-Ignored-Fields"] = _header(inputs.ignored())
    body = submitted.model_dump(exclude=None if has_hook else {"status", "webhook_url"})
    headers |= request_warnings.headers(context.service.warnings(job))
    return JSONResponse(body, headers=headers)


def _check(inputs: KleinInputs, context: Context) -> None:
    """What the fields' own limits do not tell. Raises Problem and InputError."""
    contexts.check_prompt(inputs.prompt, context)
    contexts.check_steps(inputs.steps, context)
    surplus = inputs.surplus()
    if surplus:
        count = len(inputs.references()) + len(surplus)
        raise Problem(422, f"{count} pictures are over the limit", param=surplus[0])
    refused = inputs.refused()
    if refused is not None:
        message = f"{refused}: klein has nothing like it; leave it out"
        raise Problem(422, message, param=refused, code="unsupported")
    if inputs.webhook_url is not None:
        fetching.check_url(inputs.webhook_url, "webhook_url")


def _new_job(
    inputs: KleinInputs,
    model: ServedModel,
    wish: dict[str, Any],
    *,
    pictures: tuple[Picture, ...],
    key_id: str,
) -> NewJob:
    return NewJob(
        key_id=key_id,
        api=NAME,
        model=model.name,
        request={
            **wish,
            "num_inference_steps": inputs.steps,
            "guidance_scale": inputs.guidance,
            "seed": inputs.seed,
        },
        references=tuple(picture.data for picture in pictures),
        output_format=inputs.output_format or DEFAULT_FORMAT,
        safety_tolerance=inputs.tolerance(),
        webhook_url=inputs.webhook_url,
        webhook_secret=inputs.webhook_secret,
        with_previews=bool(inputs.previews),
    )


def _sides(inputs: KleinInputs, model: ServedModel, context: Context) -> dict[str, int | None]:
    """Width and height; None: automatic. Raises Problem and InputError."""
    width, height = inputs.width or None, inputs.height or None
    if width is None and height is None and inputs.aspect_ratio is not None:
        across, down = (int(part) for part in inputs.aspect_ratio.split(":"))
        width, height = sides_of_ratio(across / down, model.info.default_size)
    ImageRequest(inputs.prompt, width=width, height=height).validate()
    contexts.check_size((width, height), model, context)
    return {"width": width, "height": height}


def sides_of_ratio(ratio: float, default_size: int) -> tuple[int, int]:
    """Width and height of about a model's default area. Raises InputError."""
    if not 1 / 8 <= ratio <= 8:
        raise InputError("aspect_ratio: is longer than 8:1; make it squarer")
    width, height = default_size * math.sqrt(ratio), default_size / math.sqrt(ratio)
    return max(64, round(width / 16) * 16), max(64, round(height / 16) * 16)


def task_result(job: Job, context: Context, base: str) -> TaskResult:
    """A job as BFL tells it."""
    return TaskResult(
        id=job.id,
        status=STATUSES[job.status],
        result=_outcome(job, context, base) if job.status == JobStatus.READY else None,
        progress=1.0 if job.status == JobStatus.READY else job.progress,
        details=request_warnings.details(
            _details(job, context.service.report_address), context.service.warnings(job)
        ),
    )


def webhook_body(job: Job, context: Context) -> dict[str, Any]:
    """What a webhook is told: the same as one who asks."""
    return task_result(job, context, contexts.own_url(context.settings)).model_dump()


def _outcome(job: Job, context: Context, base: str) -> TaskOutcome | None:
    if not job.results or job.finished_at is None:
        return None
    begun = (job.started_at or job.created_at).timestamp()
    ended = job.finished_at.timestamp()
    return TaskOutcome(
        sample=f"{base}/pictures/{context.service.signed_path(job.results[0])}",
        prompt=str(job.request["prompt"]),
        seed=job.results[0].seed,
        start_time=begun,
        end_time=ended,
        duration=round(ended - begun, 6),
    )


def _details(job: Job, report_address: str | None) -> dict[str, Any] | None:
    if job.moderation:
        report = {"Report a mistake to": report_address} if report_address else {}
        return {"Moderation Reasons": list(job.moderation), **report}
    if job.status == JobStatus.CANCELLED:
        return {"error": "cancelled"}
    return {"error": client_message(job.error)} if job.error else None


def _header(names: list[str]) -> str:
    """Names in a header: plain ones, not without end."""
    plain = [name for name in names if name.isascii() and name.isidentifier()]
    return ", ".join(plain)[:500]
