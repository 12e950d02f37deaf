"""What a worker does with jobs in the database: takes, keeps, ends and gives back; buries the dead.

A worker's lease is renewed by its heartbeat. Jobs of a worker whose lease is over, or whose process
on this machine has ended, wait again. A process that dies does not say which of its jobs was the
reason: all that ran are suspects, and run again alone, after the others; one that ran alone when
the process died waits a while before that. The one that was alone at the next death, too, is
failed. Every method blocks.
"""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Select, and_, delete, func, or_, select
from sqlalchemy.orm import Session, aliased

from kleinod.server.job_queue import processes
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import Job, JobStatus, StoredImage
from kleinod.server.job_queue.store import as_job, image_facts
from kleinod.server.job_queue.tables import JobRow, WebhookRow, WorkerRow

# a suspect goes before the others once it has waited for so long
SUSPECT_WAIT_SECONDS = 30.0
# one that was alone at a death runs no sooner than this, so that what kills processes from without,
# a few times in a row, does not meet it twice; and before the others after the second
ALONE_PAUSE_SECONDS, ALONE_WAIT_SECONDS = 30.0, 120.0


@dataclass(frozen=True)
class Claim:
    """A job that this worker has taken, and what the routes do not see of it."""

    job: Job
    num_references: int
    output_quality: int | None
    safety_tolerance: int
    with_previews: bool
    is_suspect: bool


@dataclass(frozen=True)
class Outcome:
    """How a job ended."""

    status: JobStatus
    error: str | None = None
    is_users_fault: bool = False
    moderation: tuple[str, ...] = ()
    results: tuple[StoredImage, ...] = ()


@dataclass(frozen=True)
class Terms:
    """What the settings say of leases, blame and keeping."""

    lease_seconds: float
    max_attempts_alone: int
    result_seconds: float


@dataclass(frozen=True)
class Burial:
    """What became of the jobs of dead workers: some wait again, some have ended."""

    waiting: tuple[str, ...]
    ended: tuple[Job, ...]


@dataclass(frozen=True)
class Beat:
    """What a heartbeat learned: is the lease still held, and which jobs are to be cancelled."""

    is_alive: bool
    cancelled: tuple[str, ...] = ()


class Claims:
    """One worker's hold on jobs."""

    def __init__(self, database: Database, terms: Terms, models: tuple[str, ...]) -> None:
        self._database, self._terms, self._models = database, terms, models
        self.worker_id = ""

    def register(self) -> None:
        """Appear as a new worker."""
        self.worker_id = secrets.token_hex(16)
        with self._database.writing() as session:
            session.add(
                WorkerRow(
                    id=self.worker_id,
                    machine=processes.machine(),
                    process=processes.process(),
                    lease_until=self._lease(session),
                )
            )

    def take(self, limit: int) -> list[Claim]:
        """Up to limit waiting jobs, a key that has little running first."""
        return self._taken(_fair(self._waiting(), limit))

    def take_suspect(self) -> list[Claim]:
        """The suspect that has seen the fewest deaths, to be run alone."""
        with self._database.reading() as session:
            now = self._database.now(session)
        return self._taken(_suspects(self._waiting(), now))

    def is_suspect_due(self) -> bool:
        """Whether a suspect has waited long enough to go before the others."""
        with self._database.reading() as session:
            now = self._database.now(session)
            long = JobRow.queued_at < now - timedelta(seconds=SUSPECT_WAIT_SECONDS)
            longer = JobRow.queued_at < now - timedelta(seconds=ALONE_WAIT_SECONDS)
            is_due = or_(and_(JobRow.deaths_alone == 0, long), longer)
            waiting = select(JobRow.id).where(*self._waiting(), JobRow.deaths > 0, is_due)
            return session.scalars(waiting.limit(1)).first() is not None

    def beat(self, progress: dict[str, float]) -> Beat:
        """Renew the lease and put down the progress of jobs."""
        with self._database.writing() as session:
            worker = session.get(WorkerRow, self.worker_id, with_for_update=True)
            if worker is None:
                return Beat(is_alive=False)
            worker.lease_until = self._lease(session)
            rows = session.scalars(self._own())
            cancelled = []
            for row in rows:
                row.progress = progress.get(row.id, row.progress)
                if row.is_cancelling:
                    cancelled.append(row.id)
            return Beat(is_alive=True, cancelled=tuple(cancelled))

    def end(self, job_id: str, outcome: Outcome) -> Job | None:
        """The job's final state, with its webhook owed in the same transaction.

        None if the job is no longer this worker's: then the result counts for nothing.
        """
        with self._database.writing() as session:
            own = self._own().where(JobRow.id == job_id).with_for_update()
            row = session.scalars(own).first()
            if row is None:
                return None
            now = self._database.now(session)
            _end(session, row, outcome, now, keep_seconds=self._terms.result_seconds)
            return as_job(row)

    def give_back(self, job_ids: list[str]) -> None:
        """Jobs that are not finished wait again, in their old place."""
        with self._database.writing() as session:
            now = self._database.now(session)
            for row in session.scalars(self._own().where(JobRow.id.in_(job_ids))):
                if row.is_cancelling:
                    cancelled = Outcome(JobStatus.CANCELLED)
                    _end(session, row, cancelled, now, keep_seconds=self._terms.result_seconds)
                else:
                    row.status, row.worker_id, row.progress = JobStatus.PENDING, None, 0.0
                    row.started_at = None

    def leave(self) -> None:
        """Disappear; no job is this worker's any more."""
        with self._database.writing() as session:
            session.execute(delete(WorkerRow).where(WorkerRow.id == self.worker_id))

    def bury(self) -> Burial:
        """Take the jobs from workers that are dead: they wait again or, if proven guilty, fail."""
        waiting, ended = list[str](), list[Job]()
        with self._database.writing() as session:
            now = self._database.now(session)
            for worker in session.scalars(select(WorkerRow).with_for_update(skip_locked=True)):
                if worker.id != self.worker_id and _is_dead(worker, now):
                    for row in self._buried(session, worker.id, now):
                        if row.status == JobStatus.PENDING:
                            waiting.append(row.id)
                        else:
                            ended.append(as_job(row))
                    session.delete(worker)
        return Burial(tuple(waiting), tuple(ended))

    def _buried(self, session: Session, worker_id: str, now: datetime) -> Sequence[JobRow]:
        running = select(JobRow).where(
            JobRow.worker_id == worker_id, JobRow.status == JobStatus.RUNNING
        )
        rows = session.scalars(running.with_for_update()).all()
        for row in rows:
            row.deaths += 1
            row.deaths_alone += len(rows) == 1
            outcome = self._verdict(row)
            if outcome is None:
                row.status, row.worker_id, row.progress = JobStatus.PENDING, None, 0.0
                row.queued_at, row.started_at = now, None
            else:
                _end(session, row, outcome, now, keep_seconds=self._terms.result_seconds)
        return rows

    def _verdict(self, row: JobRow) -> Outcome | None:
        if row.is_cancelling:
            return Outcome(JobStatus.CANCELLED)
        if row.deaths_alone < self._terms.max_attempts_alone:
            return None
        return Outcome(
            JobStatus.FAILED,
            error=f"the server died {row.deaths} times while it ran this job, "
            f"{row.deaths_alone} times with no other running; it is not tried again",
        )

    def _taken(self, ids: Select[str]) -> list[Claim]:
        with self._database.writing() as session:
            if session.get(WorkerRow, self.worker_id, with_for_update=True) is None:
                return []  # buried: what it took now would be nobody's
            chosen = select(JobRow).where(JobRow.id.in_(ids), *self._waiting())
            rows = session.scalars(chosen.with_for_update(skip_locked=True)).all()
            now = self._database.now(session)
            for row in rows:
                row.status, row.worker_id = JobStatus.RUNNING, self.worker_id
                row.attempts += 1
                row.started_at = now
            return [_claim(row) for row in sorted(rows, key=lambda row: row.queued_at)]

    def _waiting(self) -> tuple[ColumnElement[bool], ...]:
        return JobRow.status == JobStatus.PENDING, JobRow.model.in_(self._models)

    def _own(self) -> Select[JobRow]:
        return select(JobRow).where(
            JobRow.worker_id == self.worker_id, JobRow.status == JobStatus.RUNNING
        )

    def _lease(self, session: Session) -> datetime:
        return self._database.now(session) + timedelta(seconds=self._terms.lease_seconds)


def _fair(waiting: tuple[ColumnElement[bool], ...], limit: int) -> Select[str]:
    """Jobs no process died with: place in the key's own queue plus what the key has running."""
    running = aliased(JobRow)
    num_running = (
        select(func.count(running.id))
        .where(running.status == JobStatus.RUNNING, running.key_id == JobRow.key_id)
        .correlate(JobRow)
        .scalar_subquery()
    )
    number = func.row_number().over(partition_by=JobRow.key_id, order_by=JobRow.queued_at)
    places = (
        select(JobRow.id, JobRow.queued_at, (number + num_running).label("place"))
        .where(JobRow.deaths == 0, *waiting)
        .subquery()
    )
    return select(places.c.id).order_by(places.c.place, places.c.queued_at).limit(limit)


def _suspects(waiting: tuple[ColumnElement[bool], ...], now: datetime) -> Select[str]:
    """The first suspect that may run; those that were alone at a death come last."""
    has_paused = JobRow.queued_at < now - timedelta(seconds=ALONE_PAUSE_SECONDS)
    may_run = or_(JobRow.deaths_alone == 0, has_paused)
    suspects = select(JobRow.id).where(JobRow.deaths > 0, may_run, *waiting)
    return suspects.order_by(JobRow.deaths_alone, JobRow.deaths, JobRow.queued_at).limit(1)


def _is_dead(worker: WorkerRow, now: datetime) -> bool:
    if worker.lease_until < now:
        return True
    return worker.machine == processes.machine() and processes.is_dead(worker.process)


def _end(
    session: Session, row: JobRow, outcome: Outcome, now: datetime, *, keep_seconds: float
) -> None:
    if row.is_cancelling and outcome.status == JobStatus.READY:
        outcome = Outcome(JobStatus.CANCELLED)
    row.status, row.worker_id = outcome.status, None
    row.error = outcome.error and outcome.error.replace("\0", " ")
    row.is_users_fault = outcome.is_users_fault
    row.moderation = list(outcome.moderation)
    row.results = [image_facts(image) for image in outcome.results]
    row.progress = 1.0 if outcome.status == JobStatus.READY else row.progress
    row.finished_at = now
    row.expires_at = now + timedelta(seconds=keep_seconds)
    if row.webhook_url and outcome.status != JobStatus.CANCELLED:
        session.add(WebhookRow(job_id=row.id, attempts=0, due_at=now, last_error=None))


def _claim(row: JobRow) -> Claim:
    return Claim(
        as_job(row),
        row.num_references,
        row.output_quality,
        row.safety_tolerance,
        with_previews=row.with_previews,
        is_suspect=row.deaths > 0,
    )
