"""Waiting for jobs as an answer does: to the end, with previews, or until the client left.

A client that left has its job cancelled, which frees its place at the next step. A server that
stops cancels nothing: the job waits for the next start.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
from fastapi import Request
from fastapi.responses import StreamingResponse

from kleinod.server.context import Context
from kleinod.server.jobs import Job, JobEnded, JobEvent
from kleinod.server.problems import Problem

PING_SECONDS = 15.0


async def ended(request: Request, context: Context, job: Job) -> Job:
    """The job once it has ended. Raises Problem if the client left or the server stops."""
    end = asyncio.create_task(_end(context, job.id))
    left = asyncio.create_task(_left(request))
    try:
        async with cancelling(context, job):
            await asyncio.wait((end, left), return_when=asyncio.FIRST_COMPLETED)
            if not end.done():
                raise Problem(499, "the client left before its picture was ready")
            final = end.result()
    finally:
        for task in (end, left):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Problem):
                await task
    return final


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


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def pinged(events: AsyncIterator[JobEvent]) -> AsyncIterator[JobEvent | None]:
    """The events, and None where there was none for a while, so that proxies keep the stream."""
    iterator = aiter(events)
    following: asyncio.Task[JobEvent | None] | None = None
    try:
        while True:
            following = following or asyncio.create_task(_next(iterator))
            done, _ = await asyncio.wait((following,), timeout=PING_SECONDS)
            if not done:
                yield None
                continue
            event, following = following.result(), None
            if event is None:
                return
            yield event
    finally:
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

    def __init__(self, lines: AsyncIterator[bytes], status_code: int = 200) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(lines, status_code, headers)
