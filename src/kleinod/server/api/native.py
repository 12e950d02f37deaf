"""kleinod's own routes: a task's events and end, finished pictures, health, metrics, the page."""

import base64
import html
from collections.abc import AsyncIterator
from pathlib import Path as FilePath
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import BaseModel

from kleinod.server.api import bfl, waiting
from kleinod.server.api import context as contexts
from kleinod.server.api.bfl_models import Invalid, Refusal, TaskResult
from kleinod.server.api.context import Context, ContextOf, KeyId
from kleinod.server.api.problems import Problem
from kleinod.server.job_queue.job import Job, JobEnded, JobProgress

_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Refusal, "description": "There is none (any more)."}
}
_NO_ACCESS: dict[int | str, dict[str, Any]] = {
    403: {"model": Refusal, "description": "Without keys only this machine is answered."}
}
_EVENTS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`progress` with step, steps and preview (JPEG as base64 or null), then"
        " `end` with what get_result says.",
        "content": {"text/event-stream": {"schema": waiting.EVENT_SCHEMA}},
    }
}
_METRICS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Prometheus's text format.",
        "content": {"text/plain": {"schema": {"type": "string"}}},
    },
    503: {"model": Refusal, "description": "Not ready yet."},
}
_PICTURE: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The picture's file.",
        "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
    },
    403: {"model": Refusal, "description": "The URL is not ours, or its ten minutes are over."},
    422: {"model": Invalid, "description": "The URL is not whole."},
}
_FRESH = {"Cache-Control": "no-cache"}
_PAGE = FilePath(__file__).parents[1] / "page"
_PAGE_FILES = {
    **{"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"},
    **{"hints.js": "text/javascript", "docs.css": "text/css", "docs.js": "text/javascript"},
}
# a picture may stand on another site's page: its URL is the permission
_PICTURE_HEADERS = {
    "Cache-Control": "private, max-age=600",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "Content-Security-Policy": "default-src 'none'; sandbox",
}
router = APIRouter(tags=["kleinod"])


class Cancelled(BaseModel):
    """Whether the task was there to be cancelled."""

    cancelled: bool


class Health(BaseModel):
    """ok, loading or stopping."""

    status: str


@router.get(
    "/v1/jobs/{id}/events",
    response_class=Response,
    responses=bfl.ERRORS | _NOT_FOUND | _EVENTS,
)
async def events(
    id: Annotated[str, Path()], request: Request, context: ContextOf, key_id: KeyId
) -> Response:
    """A task's progress and end, as server-sent events; leaving them cancels nothing."""
    job = await _job(id, context, key_id)
    base = contexts.base_url(request, context)
    return waiting.EventStream(_lines(job, context, base), contexts.painted_by(job.model))


@router.delete("/v1/jobs/{id}", responses=bfl.ERRORS | _NOT_FOUND)
async def cancel(id: Annotated[str, Path()], context: ContextOf, key_id: KeyId) -> Cancelled:
    """Cancel a task; it frees its place at the next step."""
    job = await _job(id, context, key_id)
    return Cancelled(cancelled=await context.service.cancel(job.id, key_id))


@router.get("/v1/jobs/{id}", responses=bfl.ERRORS | _NOT_FOUND)
async def task(
    id: Annotated[str, Path()],
    request: Request,
    context: ContextOf,
    key_id: KeyId,
    response: Response,
) -> TaskResult:
    """The same as get_result, but 404 where there is no such task."""
    job = await _job(id, context, key_id)
    response.headers.update(contexts.painted_by(job.model))
    return bfl.task_result(job, context, contexts.base_url(request, context))


async def _job(id: str, context: Context, key_id: str) -> Job:
    job = await context.service.job(id, key_id)
    if job is None:
        raise Problem(404, "there is no such task (any more)")
    return job


async def _lines(job: Job, context: Context, base: str) -> AsyncIterator[bytes]:
    async for event in waiting.pinged(context, job):
        if event is None:
            yield waiting.PING
        elif isinstance(event, Problem):
            yield waiting.event_line("error", {"detail": event.message})
        elif isinstance(event, JobEnded):
            told = bfl.task_result(event.job, context, base).model_dump()
            yield waiting.event_line("end", told)
        else:
            yield waiting.event_line("progress", _progress(event))


def _progress(event: JobProgress) -> dict[str, Any]:
    preview = event.preview_jpeg
    return {
        "step": event.index,
        "steps": event.num_steps,
        "preview": base64.b64encode(preview).decode() if preview else None,
    }


@router.get("/pictures/{path:path}", response_class=Response, responses=_PICTURE | _NOT_FOUND)
async def picture(
    path: str,
    expires: Annotated[str, Query()],
    signature: Annotated[str, Query()],
    context: ContextOf,
) -> Response:
    """A finished picture; its URL is given out with the result and valid for ten minutes."""
    if not context.service.is_ready:
        raise not_ready(context)
    if not context.service.check_signature(path, expires, signature):
        raise Problem(403, "this URL is not valid, or not any more; ask for the result again")
    data = await context.service.picture(path)
    if data is None:
        raise Problem(404, "this picture was removed")
    kind = path.rpartition(".")[2]
    name = f'inline; filename="kleinod-{path.split("/")[1][:8]}.{kind}"'
    headers = _PICTURE_HEADERS | {"Content-Disposition": name}
    return Response(data, media_type=f"image/{kind}", headers=headers)


def not_ready(context: Context) -> Problem:
    """503 while the model loads."""
    if context.is_stopping:
        return waiting.stopping()
    message = "the model is still loading; ask again soon"
    return Problem(503, message, headers={"Retry-After": "5"})


@router.get("/healthz", responses=_NO_ACCESS)
async def healthz() -> Health:
    """Whether the process lives."""
    return Health(status="ok")


@router.get("/readyz", responses=_NO_ACCESS | {503: {"model": Health, "description": "Not ready."}})
async def readyz(context: ContextOf, response: Response) -> Health:
    """Whether the model is loaded and tasks are taken."""
    if context.is_stopping or not context.service.is_ready:
        response.status_code = 503
        return Health(status="stopping" if context.is_stopping else "loading")
    return Health(status="ok")


@router.get(
    "/metrics",
    response_class=Response,
    responses=_NO_ACCESS | _METRICS,
)
async def metrics(context: ContextOf) -> Response:
    """For Prometheus."""
    if not context.service.is_ready:
        raise not_ready(context)
    text, content_type = await context.service.metrics_text()
    return Response(text, headers={"Content-Type": content_type})


@router.get("/", include_in_schema=False)
async def page(context: ContextOf) -> Response:
    """The page, with the operator's address for reports."""
    address = context.service.report_address
    report = _report_link(address).encode() if address else b""
    document = (_PAGE / "index.html").read_bytes().replace(b"<!-- report -->", report)
    return Response(document, media_type="text/html", headers=_FRESH)


def _report_link(address: str) -> str:
    shown = html.escape(address)
    if address.startswith(("https://", "http://")):
        return f'<a href="{shown}">report a picture</a> '
    if "@" in address:
        return f'<a href="mailto:{shown}">report a picture</a> '
    return f"reports: {shown} "


@router.get("/docs", include_in_schema=False)
async def docs() -> Response:
    """The API as a page to read, made from /openapi.json by a script of ours."""
    return _static("docs.html", "text/html")


@router.get("/favicon.ico", include_in_schema=False)
async def favicon() -> Response:
    """What browsers ask for unasked."""
    return _static("favicon.ico", "image/vnd.microsoft.icon")


@router.get("/page/{name}", include_in_schema=False)
async def page_file(name: str) -> Response:
    """What the page needs."""
    if name not in _PAGE_FILES:
        raise Problem(404, "there is no such file")
    return _static(name, _PAGE_FILES[name])


def _static(name: str, media_type: str) -> Response:
    return Response((_PAGE / name).read_bytes(), media_type=media_type, headers=_FRESH)
