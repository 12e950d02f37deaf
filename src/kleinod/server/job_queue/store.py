"""Jobs in the database: accepted within their limits, looked at, cancelled, removed when old.

A job with references is first put down as `accepting`, which nobody sees; once its pictures lie in
the storage it is opened. So a crash in between leaves a row that says what to clear away.
Every method blocks. What workers do with jobs is in `claims.py`.
"""

import math
import secrets
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta

from sqlalchemy import Select, delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import (
    Job,
    JobStatus,
    LimitReached,
    NewJob,
    QueueFull,
    StoredImage,
)
from kleinod.server.job_queue.tables import JobRow, KeyRow, SecretRow, WebhookRow

ACCEPTING = "accepting"
_UNFINISHED = (ACCEPTING, JobStatus.PENDING, JobStatus.RUNNING)
# a job that is not opened within this time never will be: its server died
_ACCEPTING_SECONDS = 3600
_MAX_RETRY_SECONDS = 60


@dataclass(frozen=True)
class Limits:
    """How many jobs may wait, and what a key may do unless it says otherwise."""

    max_queue: int
    key_concurrency: int
    key_requests_per_minute: int
    result_seconds: float


class JobStore:
    """The jobs in a database."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database, self._limits = database, limits

    def add(self, new: NewJob) -> Job:
        """Put a job down; it waits at once, unless it has references. Raises Refused."""
        with self._database.writing() as session:
            now = self._database.now(session)
            self._check_key(session, new.key_id, now)
            self._check_queue(session, now)
            row = _row(new, now)
            session.add(row)
            return as_job(row)

    def open(self, job_id: str) -> None:
        """The references are stored: the job waits."""
        with self._database.writing() as session:
            now = self._database.now(session)
            session.execute(
                update(JobRow)
                .where(JobRow.id == job_id, JobRow.status == ACCEPTING)
                .values(status=JobStatus.PENDING, queued_at=now)
            )

    def forget(self, job_id: str) -> None:
        """Take back a job that was added and not opened."""
        with self._database.writing() as session:
            session.execute(delete(JobRow).where(JobRow.id == job_id, JobRow.status == ACCEPTING))

    def job(self, job_id: str, key_id: str | None = None) -> Job | None:
        """A job, if it is that key's (None: whoever's)."""
        with self._database.reading() as session:
            row = session.get(JobRow, job_id)
            if row is None or row.status == ACCEPTING or key_id not in (None, row.key_id):
                return None
            return as_job(row)

    def cancel(self, job_id: str, key_id: str) -> Job | None:
        """End a waiting job, mark a running one; None if there is nothing to cancel."""
        with self._database.writing() as session:
            row = session.get(JobRow, job_id, with_for_update=True)
            if row is None or row.key_id != key_id:
                return None
            if row.status not in (JobStatus.PENDING, JobStatus.RUNNING):
                return None
            row.is_cancelling = True
            if row.status == JobStatus.PENDING:
                row.status = JobStatus.CANCELLED
                row.finished_at = self._database.now(session)
                row.expires_at = row.finished_at + timedelta(seconds=self._limits.result_seconds)
            return as_job(row)

    def expired(self, *, limit: int = 100) -> list[str]:
        """Jobs whose time is over, and such as were never opened."""
        with self._database.reading() as session:
            now = self._database.now(session)
            stale = now - timedelta(seconds=_ACCEPTING_SECONDS)
            old = (JobRow.expires_at < now) & JobRow.status.not_in(_UNFINISHED)
            never = (JobRow.status == ACCEPTING) & (JobRow.created_at < stale)
            return list(session.scalars(select(JobRow.id).where(old | never).limit(limit)))

    def remove(self, job_ids: list[str]) -> None:
        """Forget jobs and what is owed to their webhooks."""
        with self._database.writing() as session:
            session.execute(delete(WebhookRow).where(WebhookRow.job_id.in_(job_ids)))
            session.execute(delete(JobRow).where(JobRow.id.in_(job_ids)))

    def counts(self) -> dict[str, int]:
        """Jobs by status."""
        with self._database.reading() as session:
            rows = session.execute(select(JobRow.status, func.count()).group_by(JobRow.status))
            return {status: count for status, count in rows}

    def secret(self, name: str) -> bytes:
        """A secret of 32 bytes, made when it is first asked for, the same for all servers."""
        with self._database.writing() as session:
            row = session.get(SecretRow, name)
        if row is not None:
            return row.value
        made = SecretRow(name=name, value=secrets.token_bytes(32))
        try:
            with self._database.writing() as session:
                session.add(made)
                return made.value
        except IntegrityError:  # another server was first
            return self.secret(name)

    def _check_key(self, session: Session, key_id: str, now: datetime) -> None:
        """Without keys there is one user, at this machine: only the queue is limited."""
        if not key_id:
            return
        # the lock makes one of two simultaneous jobs of a key wait for the other's count
        key = session.get(KeyRow, key_id, with_for_update=True)
        concurrent = (key and key.max_concurrent) or self._limits.key_concurrency
        per_minute = (key and key.requests_per_minute) or self._limits.key_requests_per_minute
        own = select(func.count()).where(JobRow.key_id == key_id)
        unfinished = _count(session, own.where(JobRow.status.in_(_UNFINISHED)))
        if unfinished >= concurrent:
            raise LimitReached(
                f"key: {unfinished} unfinished jobs are the limit of {concurrent}; wait for one",
                retry_after_seconds=1,
            )
        minute = now - timedelta(seconds=60)
        times = select(JobRow.created_at).where(JobRow.key_id == key_id, JobRow.created_at > minute)
        oldest = session.scalars(
            times.order_by(JobRow.created_at.desc()).offset(per_minute - 1).limit(1)
        ).first()
        if oldest is not None:
            raise LimitReached(
                f"key: {per_minute} new jobs within a minute are the limit; wait",
                retry_after_seconds=max(1, math.ceil((oldest - minute).total_seconds())),
            )

    def _check_queue(self, session: Session, now: datetime) -> None:
        waiting = _count(
            session,
            select(func.count()).where(JobRow.status.in_((ACCEPTING, JobStatus.PENDING))),
        )
        if waiting < self._limits.max_queue:
            return
        recent = select(func.count()).where(
            JobRow.status == JobStatus.READY, JobRow.finished_at > now - timedelta(seconds=60)
        )
        # at the pace of the last minute, one place is free after this time
        seconds = math.ceil(60 / max(1, _count(session, recent)))
        raise QueueFull(
            f"queue: {waiting} jobs wait, the limit is {self._limits.max_queue}; try again later",
            retry_after_seconds=min(seconds, _MAX_RETRY_SECONDS),
        )


def _count(session: Session, statement: Select[int]) -> int:
    return session.execute(statement.select_from(JobRow)).scalar_one()


def _row(new: NewJob, now: datetime) -> JobRow:
    return JobRow(
        id=secrets.token_hex(16),
        key_id=new.key_id,
        api=new.api,
        model=new.model,
        request=new.request,
        num_references=len(new.references),
        output_format=new.output_format,
        output_quality=new.output_quality,
        safety_tolerance=new.safety_tolerance,
        with_previews=new.with_previews,
        webhook_url=new.webhook_url,
        webhook_secret=new.webhook_secret,
        status=ACCEPTING if new.references else JobStatus.PENDING,
        attempts=0,
        deaths=0,
        deaths_alone=0,
        is_cancelling=False,
        progress=0.0,
        is_users_fault=False,
        moderation=[],
        results=[],
        created_at=now,
        queued_at=now,
    )


def as_job(row: JobRow) -> Job:
    """What the routes see of a row."""
    status = JobStatus.PENDING if row.status == ACCEPTING else JobStatus(row.status)
    return Job(
        id=row.id,
        key_id=row.key_id,
        api=row.api,
        model=row.model,
        request=row.request,
        status=status,
        progress=row.progress,
        created_at=row.created_at,
        output_format=row.output_format,
        error=row.error,
        is_users_fault=row.is_users_fault,
        moderation=tuple(row.moderation),
        results=tuple(StoredImage(**image) for image in row.results),
        started_at=row.started_at,
        finished_at=row.finished_at,
        expires_at=row.expires_at,
        attempts=row.attempts,
        num_references=row.num_references,
        webhook_url=row.webhook_url,
    )


def image_facts(image: StoredImage) -> dict[str, object]:
    """What a row keeps of a picture."""
    return asdict(image)
