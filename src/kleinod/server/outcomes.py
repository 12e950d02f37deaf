"""What is said of a job's end, and small pictures on the way there. Only computes."""

import io
from collections.abc import Sequence

from PIL import Image

from kleinod.errors import ModeratedError
from kleinod.server.claims import Outcome
from kleinod.server.jobs import Job, JobStatus
from kleinod.server.storage import Storage

_PREVIEW_QUALITY = 80


def moderated(stopped: Sequence[ModeratedError], status: JobStatus) -> Outcome:
    """The end of a job that a filter stopped."""
    return Outcome(
        status, error=str(stopped[0]), is_users_fault=True, moderation=categories(stopped)
    )


def categories(stopped: Sequence[ModeratedError]) -> tuple[str, ...]:
    """Those of the verdicts that stopped something, each once."""
    return tuple(sorted({verdict.category for error in stopped for verdict in error.verdicts}))


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
