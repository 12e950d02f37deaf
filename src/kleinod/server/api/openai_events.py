"""OpenAI's server-sent events: previews of the picture while it is painted, then the picture."""

import asyncio
import base64
import io
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kleinod.images import prepared_size
from kleinod.server.api import waiting
from kleinod.server.api.context import Context
from kleinod.server.api.messages import client_message
from kleinod.server.api.openai_models import Format, TokenDetails, Usage
from kleinod.server.api.problems import Problem, openai_error
from kleinod.server.job_queue import outcomes
from kleinod.server.job_queue.job import Job, JobEnded, JobProgress, JobStatus
from kleinod.server.service import ServedModel
from kleinod.server.untrusted.incoming import Picture

# a token is 16 x 16 pixels, the transformer's patch
_TOKEN_PIXELS = 16 * 16
_PREVIEW_QUALITY = 80


@dataclass(frozen=True)
class Told:
    """What an answer says beside its pictures, and in which form it gives them."""

    kind: str
    output_format: Format
    quality: str
    model: ServedModel
    pictures: tuple[Picture, ...]
    is_stream: bool
    num_partial_images: int
    is_url: bool
    is_file: bool


async def event_stream(job: Job, told: Told, context: Context) -> AsyncIterator[bytes]:
    """The events of a job as lines; a client that leaves has its job cancelled."""
    due = 0
    async with waiting.cancelling(context, job):
        async for event in waiting.pinged(context, job):
            if event is None:
                yield waiting.PING
            elif isinstance(event, Problem):
                yield _error(event)
                return
            elif isinstance(event, JobEnded):
                async for line in _final(event.job, told, context):
                    yield line
                return
            elif event.preview_jpeg is not None and is_due(event, due, told.num_partial_images):
                yield await _partial(job, event.preview_jpeg, told, index=due)
                due += 1
        yield _error(waiting.stopping())


def is_due(progress: JobProgress, sent: int, wanted: int) -> bool:
    """Whether a step is late enough for the next of the previews, which are spread evenly."""
    if sent >= wanted or progress.index >= progress.num_steps:
        return False
    return progress.index * (wanted + 1) >= (sent + 1) * progress.num_steps


async def _partial(job: Job, preview: bytes, told: Told, *, index: int) -> bytes:
    size = job.request["width"], job.request["height"]
    data = await asyncio.to_thread(_enlarged, preview, size, told.output_format)
    facts = _facts(job, told, "partial_image", data)
    return waiting.event_line(facts["type"], facts | {"partial_image_index": index})


def _enlarged(preview: bytes, size: tuple[int, int], output_format: str) -> bytes:
    """A preview of the size and format of the picture that it stands for."""
    with Image.open(io.BytesIO(preview)) as opened:
        picture = opened.convert("RGB").resize(size, Image.Resampling.BICUBIC)
    file = io.BytesIO()
    picture.save(file, output_format, quality=_PREVIEW_QUALITY)
    return file.getvalue()


async def _final(job: Job, told: Told, context: Context) -> AsyncIterator[bytes]:
    if job.status != JobStatus.READY:
        yield _error(failure(job))
        return
    for image in job.results:
        data = await context.service.picture(image.path)
        if data is None:
            yield _error(Problem(500, "the picture is not in the storage any more"))
            return
        facts = _facts(job, told, "completed", data)
        counted = usage(job, told).model_dump()
        yield waiting.event_line(facts["type"], facts | {"usage": counted})


def _facts(job: Job, told: Told, what: str, data: bytes) -> dict[str, Any]:
    """What both events say."""
    return {
        "type": f"{told.kind}.{what}",
        "b64_json": base64.b64encode(data).decode(),
        "background": "opaque",
        "created_at": int(time.time()),
        "output_format": told.output_format,
        "quality": told.quality,
        "size": f"{job.request['width']}x{job.request['height']}",
    }


def _error(problem: Problem) -> bytes:
    return waiting.event_line("error", {"type": "error", "error": openai_error(problem)})


def failure(job: Job) -> Problem:
    """The problem of a job that ended without a picture."""
    if job.status in (JobStatus.REQUEST_MODERATED, JobStatus.CONTENT_MODERATED):
        reasons = ", ".join(job.moderation)
        message = f"Your request was rejected by the safety system: {reasons}."
        message += outcomes.openai_hint(job.moderation)
        return Problem(400, message, code="moderation_blocked")
    if job.status == JobStatus.CANCELLED:
        return Problem(400, "The job was cancelled.", code="cancelled")
    status = 422 if job.is_users_fault else 500
    message = client_message(job.error or "the painting failed")
    return Problem(status, message, code="generation_failed")


def usage(job: Job, told: Told) -> Usage:
    """Tokens of each picture, times their number: prompts are padded to the model's longest."""
    count, side = job.request["num_images"], told.model.info.default_size
    sizes = [prepared_size(p.width, p.height, max_pixels=side * side) for p in told.pictures]
    seen = sum(width * height for width, height in sizes) // _TOKEN_PIXELS * count
    text = told.model.info.max_text_tokens * count
    made = job.request["width"] * job.request["height"] // _TOKEN_PIXELS * count
    return Usage(
        input_tokens=seen + text,
        output_tokens=made,
        total_tokens=seen + text + made,
        input_tokens_details=TokenDetails(image_tokens=seen, text_tokens=text),
        output_tokens_details=TokenDetails(image_tokens=made, text_tokens=0),
    )
