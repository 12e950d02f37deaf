"""What a job is, to the routes and to the store: plain data and the refusals. No database."""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from kleinod.errors import KleinodError


class JobStatus(StrEnum):
    """Where a job stands; the last five are final."""

    PENDING = "pending"
    RUNNING = "running"
    READY = "ready"
    FAILED = "failed"
    REQUEST_MODERATED = "request_moderated"
    CONTENT_MODERATED = "content_moderated"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more will happen to the job."""
        return self not in (JobStatus.PENDING, JobStatus.RUNNING)


@dataclass(frozen=True)
class NewJob:
    """A job as a route asks for it.

    request: fields of Request as JSON, without pictures; references: checked picture files;
    output_format: png, jpeg or webp; key_id: "" where no keys are configured.
    """

    key_id: str
    api: str
    model: str
    request: dict[str, Any]
    references: tuple[bytes, ...] = ()
    output_format: str = "png"
    output_quality: int | None = None
    safety_tolerance: int = 2
    webhook_url: str | None = None
    webhook_secret: str | None = None
    with_previews: bool = False


@dataclass(frozen=True)
class StoredImage:
    """A finished picture in the storage; format is png, jpeg or webp."""

    path: str
    seed: int
    width: int
    height: int
    format: str


@dataclass(frozen=True)
class Job:
    """A job as it stands. progress from 0 to 1; error is one line for the user."""

    id: str
    key_id: str
    api: str
    model: str
    request: dict[str, Any]
    status: JobStatus
    progress: float
    created_at: datetime
    output_format: str = "png"
    error: str | None = None
    is_users_fault: bool = False
    moderation: tuple[str, ...] = ()
    results: tuple[StoredImage, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
    expires_at: datetime | None = None
    attempts: int = 0
    num_references: int = 0
    webhook_url: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class JobProgress:
    """A finished step of num_steps, and what the picture looks like so far if that was asked."""

    index: int
    num_steps: int
    preview_jpeg: bytes | None = None


@dataclass(frozen=True)
class JobEnded:
    """The last event: the job in its final state."""

    job: Job


JobEvent = JobProgress | JobEnded


class Refused(KleinodError):
    """A job that cannot be taken now, and when to ask again."""

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(KleinodError):
    """Something that the server needs does not answer now."""


class QueueFull(Refused):
    """As many jobs wait as may."""


class LimitReached(Refused):
    """The key has as many unfinished jobs, or new ones this minute, as it may."""
