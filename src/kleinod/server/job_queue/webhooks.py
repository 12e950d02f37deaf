"""Tells a job's end to the address that its owner gave: signed, again after a failure, durable.

What is owed stands in the database from the moment the job ended (`claims.py`), so that a restart
forgets none. A server that dies while it sends leaves the message due: it may arrive twice.
"""

import asyncio
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from kleinod.errors import KleinodError
from kleinod.server.job_queue import signed_urls
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import Job
from kleinod.server.job_queue.store import as_job
from kleinod.server.job_queue.tables import JobRow, WebhookRow
from kleinod.server.metrics import Metrics
from kleinod.server.threads import Threads

SIGNATURE_HEADER = "X-BFL-Signature"
_POLL_SECONDS = 0.5
_AT_ONCE = 8

_log = logging.getLogger(__name__)


class Post(Protocol):
    """Sends a body and gives the answer's status. Raises KleinodError, OSError."""

    async def __call__(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """POST to the URL, with the rules that hold for every address that users give."""


@dataclass(frozen=True)
class _Due:
    job: Job
    url: str
    secret: str | None
    attempt: int


class Webhooks:
    """Sends what is due; body: what a job looks like to the API it came by."""

    def __init__(
        self,
        database: Database,
        threads: Threads,
        *,
        delays_seconds: tuple[float, ...],
        timeout_seconds: float,
        metrics: Metrics,
        post: Post,
    ) -> None:
        self._database, self._threads, self._metrics = database, threads, metrics
        self._delays, self._timeout, self._post = delays_seconds, timeout_seconds, post
        self.body: Callable[[Job], dict[str, Any]] = plain_body

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                due = await self._threads.run(self._taken)
                await asyncio.gather(*(self._send(one) for one in due))
            except SQLAlchemyError as error:
                _log.error("webhooks: %s; trying again", " ".join(str(error).split()))
            await asyncio.sleep(_POLL_SECONDS)

    def _taken(self) -> list[_Due]:
        """Those whose time has come; no other server takes them before this one gave up."""
        with self._database.writing() as session:
            now = self._database.now(session)
            due = select(WebhookRow).where(WebhookRow.due_at <= now).order_by(WebhookRow.due_at)
            rows = session.scalars(due.limit(_AT_ONCE).with_for_update(skip_locked=True)).all()
            taken = []
            for row in rows:
                job = session.get(JobRow, row.job_id)
                if job is None or job.webhook_url is None:
                    session.delete(row)
                    continue
                row.attempts += 1
                row.due_at = now + timedelta(seconds=2 * self._timeout + 5)
                taken.append(_Due(as_job(job), job.webhook_url, job.webhook_secret, row.attempts))
            return taken

    async def _send(self, due: _Due) -> None:
        body = json.dumps(self.body(due.job)).encode()
        headers = {"Content-Type": "application/json"}
        if due.secret:
            headers[SIGNATURE_HEADER] = signed_urls.webhook_signature(due.secret, body)
        try:
            async with asyncio.timeout(self._timeout):
                status = await self._post(due.url, body, headers)
            reason = None if 200 <= status < 300 else f"it answered {status}"
        except (KleinodError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        await self._threads.run(self._noted, due, reason)

    def _noted(self, due: _Due, reason: str | None) -> None:
        is_last = due.attempt > len(self._delays)
        with self._database.writing() as session:
            row = session.get(WebhookRow, due.job.id, with_for_update=True)
            if row is not None and (reason is None or is_last):
                session.delete(row)
            elif row is not None:
                wait = self._delays[due.attempt - 1]
                row.due_at = self._database.now(session) + timedelta(seconds=wait)
                row.last_error = str(reason).replace("\0", " ")[:1000]
        outcome = "delivered" if reason is None else "dropped" if is_last else "failed"
        self._metrics.count_webhook(outcome)
        if reason is not None:
            _log.warning("webhook of job %s, attempt %d: %s", due.job.id, due.attempt, reason)


def plain_body(job: Job) -> dict[str, Any]:
    """A job in short, where no API says otherwise."""
    return {"id": job.id, "status": str(job.status), "progress": job.progress, "error": job.error}
