"""What is said of a job's end, and small pictures on the way there. Only computes."""

import io
from collections.abc import Sequence

from PIL import Image

from kleinod.errors import ModeratedError
from kleinod.safety.verdicts import TOLERANT
from kleinod.server.job_queue.claims import Outcome
from kleinod.server.job_queue.job import Job, JobStatus
from kleinod.server.job_queue.storage import Storage

_PREVIEW_QUALITY = 80


def moderated(errors: Sequence[ModeratedError], status: JobStatus) -> Outcome:
    """The end of a job that a filter stopped."""
    return Outcome(
        status, error=errors[0].message(), is_users_fault=True, moderation=categories(errors)
    )


def categories(errors: Sequence[ModeratedError]) -> tuple[str, ...]:
    """Those of the verdicts that stopped something, each once."""
    return tuple(sorted({verdict.category for error in errors for verdict in error.verdicts}))


def openai_hint(categories: Sequence[str]) -> str:
    """Which of OpenAI's settings moves what stopped a request; empty where none does."""
    is_movable = bool(categories) and set(categories) <= set(TOLERANT)
    return ' moderation: "low" is less strict.' if is_movable else ""


def result_path(job: Job, attempt: int, index: int) -> str:
    """Where a picture lies: an attempt's own place, which no other server writes over."""
    number = f"-{attempt}" if attempt > 1 else ""
    return f"results/{job.id}/{index}{number}.{job.output_format}"


def remove_earlier(storage: Storage, job: Job) -> None:
    """Remove what attempts before this one have left: there is one result. Raises OSError."""
    for attempt in range(1, job.attempts):
        for index in range(job.request["num_images"]):
            storage.remove(result_path(job, attempt, index))


def preview_jpeg(preview: Image.Image) -> bytes:
    """A preview as it is sent."""
    buffer = io.BytesIO()
    preview.convert("RGB").save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
    return buffer.getvalue()
