"""What is said of a job's end, and small pictures on the way there. Only computes."""

import io
from collections.abc import Sequence

from PIL import Image

from kleinod.errors import ModeratedError
from kleinod.server.claims import Outcome
from kleinod.server.jobs import JobStatus

_PREVIEW_QUALITY = 80


def moderated(errors: Sequence[ModeratedError], status: JobStatus) -> Outcome:
    """The end of a job that a filter stopped."""
    return Outcome(status, error=str(errors[0]), is_users_fault=True, moderation=categories(errors))


def categories(errors: Sequence[ModeratedError]) -> tuple[str, ...]:
    """Those of the verdicts that stopped something, each once."""
    return tuple(sorted({verdict.category for error in errors for verdict in error.verdicts}))


def preview_jpeg(preview: Image.Image) -> bytes:
    """A preview as it is sent."""
    buffer = io.BytesIO()
    preview.convert("RGB").save(buffer, "JPEG", quality=_PREVIEW_QUALITY)
    return buffer.getvalue()
