"""Waiting for jobs as an answer does: to the end, with previews, or until the client left.

A client that left has its job cancelled, which frees its place at the next step. A server that
stops cancels nothing: the job waits for the next start.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse

from kleinod.server.api.context import Context
from kleinod.server.api.problems import Problem
from kleinod.server.job_queue.job import Job, JobEnded, JobEvent

PING_SECONDS = 15.0
# how soon an open answer notices that its key was revoked
KEY_SECONDS = 3.0


async def ended(request: Request, context: Context, job: Job) -> Job:
    """The job once it has ended.

    Raises Problem if the client left, the server stops, or the key was revoked meanwhile: then the
    job is painted all the same, like all that a revoked key had in the queue.
    """
    end = asyncio.create_task(_end(context, job.id))
    left = asyncio.create_task(_left(request))
    refused = asyncio.create_task(_refused(context, job.key_id))
    try:
        async with cancelling(context, job):
            await asyncio.wait((end, left, refused), return_when=asyncio.FIRST_COMPLETED)
            if left.done() and not end.done():
                raise Problem(499, "the client left before its picture was ready")
        if not end.done():
            raise revoked()
        return end.result()
    finally:
        for task in (end, left, refused):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Problem):
                await task


@asynccontextmanager
async def cancelling(context: Context, job: Job) -> AsyncIterator[None]:
    """A block that reaches its end if the job is wanted to its end; otherwise it is cancelled."""
    try:
        yield
    except BaseException:
        if not context.is_stopping:
            with anyio.CancelScope(shield=True):
                await context.service.cancel(job.id, job.key_id)
        raise


async def _end(context: Context, job_id: str) -> Job:
    async for event in context.service.events(job_id):
        if isinstance(event, JobEnded):
            return event.job
    raise stopping()


def stopping() -> Problem:
    """503 for those who wait while the server stops."""
    return Problem(503, "the server is stopping; ask again soon", headers={"Retry-After": "5"})


def revoked() -> Problem:
    """401 for those whose key was revoked while they waited."""
    return Problem(401, "This API key was revoked.", code="invalid_api_key")


async def _refused(context: Context, key_id: str) -> None:
    """Until the key is not valid any more."""
    while await context.service.is_valid_key(key_id):
        await asyncio.sleep(KEY_SECONDS)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def pinged(context: Context, job: Job) -> AsyncIterator[JobEvent | Problem | None]:
    """A job's events, and None where there was none for a while, so that proxies keep the stream.

    The last one is a Problem if the job's key was revoked meanwhile.
    """
    iterator = aiter(context.service.events(job.id))
    refused = asyncio.create_task(_refused(context, job.key_id))
    following: asyncio.Task[JobEvent | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(iterator))
            done, _ = await asyncio.wait(
                (following, refused),
                timeout=PING_SECONDS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if refused in done:
                yield revoked()
                return
            if not done:
                yield None
                continue
            event, following = following.result(), None
            if event is None:
                return
            yield event
    finally:
        refused.cancel()
        if following is not None:
            following.cancel()


async def _next(iterator: AsyncIterator[JobEvent]) -> JobEvent | None:
    return await anext(iterator, None)


def event_line(kind: str, data: dict[str, Any]) -> bytes:
    """One server-sent event."""
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n".encode()


# as OpenAPI 3.2 describes an event
EVENT_SCHEMA = {
    "type": "object",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
PING = b": still here\n\n"


class EventStream(StreamingResponse):
    """Server-sent events, not to be stored or gathered on the way."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        own = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(lines, headers=own | dict(headers))
