"""What the routes talk to: jobs in, events and pictures out. Nothing here blocks the event loop.

A job is in the database before `accept` returns. Whoever asks for a job names the key it asks for:
another key's job is no job.
"""

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from kleinod.catalog import ModelInfo
from kleinod.errors import InputError
from kleinod.request_warnings import RequestWarning
from kleinod.safety import Policy
from kleinod.server import auditing
from kleinod.server.job_queue import signed_urls
from kleinod.server.job_queue.api_keys import KeyRecord, Keys
from kleinod.server.job_queue.claims import Claims, Terms
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.executor import JobExecutor, configured_session
from kleinod.server.job_queue.job import (
    Job,
    JobEnded,
    JobEvent,
    JobProgress,
    JobStatus,
    NewJob,
    StoredImage,
    Unavailable,
)
from kleinod.server.job_queue.retention import Retention
from kleinod.server.job_queue.storage import Storage
from kleinod.server.job_queue.store import JobStore, Limits
from kleinod.server.job_queue.subscriptions import Hub
from kleinod.server.job_queue.webhooks import Post, Webhooks, plain_body
from kleinod.server.job_queue.worker import Parts, Worker
from kleinod.server.metrics import CONTENT_TYPE, Metrics
from kleinod.server.settings import Settings
from kleinod.server.threads import Threads

# how often a job that another server paints is looked at
_LOOK_SECONDS = 1.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ServedModel:
    """A model that is served, and its facts."""

    name: str
    info: ModelInfo


class Service:
    """One server: database, storage, models, worker. `start` may take minutes, for the weights."""

    def __init__(
        self,
        settings: Settings,
        *,
        post: Post,
        webhook_body: Callable[[Job], dict[str, Any]] = plain_body,
    ) -> None:
        self.settings = settings
        self._post, self._webhook_body = post, webhook_body
        self.metrics = Metrics()
        self._hub = Hub()
        self._database_threads = Threads("database", 8)
        self._pixel_threads = Threads("pixels", 4)
        self._executors: dict[str, JobExecutor] = {}
        self.report_address: str | None = None
        self._worker: Worker | None = None
        self._loops: list[asyncio.Task[None]] = []
        self._is_stopped = False

    async def start(self) -> None:
        """Open everything, load the models, begin to work. Raises InputError."""
        await self._database_threads.run(self._open)
        await self._pixel_threads.run(self._load)
        self.metrics.watch({name: executor.engine for name, executor in self._executors.items()})
        settings = self.settings
        terms = Terms(
            lease_seconds=settings.lease_seconds,
            max_attempts_alone=settings.max_attempts_alone,
            result_seconds=settings.result_seconds,
        )
        parts = Parts(
            claims=Claims(self._database, terms, tuple(self._executors)),
            storage=self._storage,
            hub=self._hub,
            metrics=self.metrics,
            executors=self._executors,
            database_threads=self._database_threads,
            pixel_threads=self._pixel_threads,
            audit_log=self._audit_log,
        )
        self._worker = Worker(parts, settings)
        await self._worker.start()
        retention = Retention(self._store, self._storage, self._pixel_threads)
        self._loops = [
            asyncio.create_task(retention.run(), name="retention"),
            asyncio.create_task(self.webhooks.run(), name="webhooks"),
        ]

    async def stop(self, *, finish: bool = True) -> None:
        """Finish what runs, for finish_seconds at most; the rest waits for the next start."""
        if self._worker is not None:
            seconds = self.settings.finish_seconds if finish else 0
            await self._worker.stop(finish_seconds=seconds)
        self._is_stopped = True
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        for executor in self._executors.values():
            await self._pixel_threads.run(executor.close)
        await self._database_threads.run(self._database.close)
        self._database_threads.close()
        self._pixel_threads.close()

    @property
    def is_ready(self) -> bool:
        """Whether the models are loaded and jobs are worked on."""
        return self._worker is not None

    async def accept(self, new: NewJob) -> Job:
        """Check a job and put it down. Raises InputError, QueueFull, LimitReached, Unavailable."""
        executor = self._executors.get(new.model)
        if executor is None:
            served = ", ".join(self._executors)
            raise InputError(f"model: {new.model!r} is not served here; served are {served}")
        request = await self._pixel_threads.run(
            executor.resolve, new.request, new.references, new.output_format
        )
        with _storage_answers():
            job = await self._database_threads.run(self._put_down, replace(new, request=request))
        await self._pixel_threads.run(executor.warnings, job)  # quick from now on
        if self._worker is not None:
            self._worker.wake()
        return job

    def warnings(self, job: Job) -> tuple[RequestWarning, ...]:
        """What the job's model was not trained for; nothing where it is not served here."""
        executor = self._executors.get(job.model)
        return () if executor is None else executor.warnings(job)

    async def job(self, job_id: str, key_id: str) -> Job | None:
        """A job of this key as it stands, its progress up to date."""
        job = await self._database_threads.run(self._store.job, _clean(job_id), key_id)
        if job is None or self._worker is None or job.status != JobStatus.RUNNING:
            return job
        return replace(job, progress=max(job.progress, self._worker.progress(job.id)))

    async def cancel(self, job_id: str, key_id: str) -> bool:
        """Cancel a job of this key; False if there is nothing to cancel."""
        job = await self._database_threads.run(self._store.cancel, _clean(job_id), key_id)
        if job is None:
            return False
        if job.status == JobStatus.CANCELLED:
            await self._pixel_threads.run(auditing.ended_without, self._audit_log, job)
            self.metrics.count_job(job)
            self._hub.publish(job.id, JobEnded(job))
        elif self._worker is not None:
            self._worker.cancel(job.id)
        return True

    async def events(self, job_id: str) -> AsyncIterator[JobEvent]:
        """Progress from now on, the newest only, and the end; of a job that ended, the end.

        Without an end it stops only where this server stops and the job waits for the next one.
        """
        with self._hub.subscribed(job_id) as subscriber:
            event, last = await self._looked(job_id), None
            while not self._is_stopped:
                if event is not None and event != last:
                    yield event
                    last = event
                if isinstance(event, JobEnded):
                    return
                event = await subscriber.take(_LOOK_SECONDS)
                if event is None and not self._is_here(job_id):
                    event = await self._looked(job_id)

    async def picture(self, path: str) -> bytes | None:
        """A finished picture's file; None if there is none (any more). Raises Unavailable."""
        if not signed_urls.is_picture(path):
            return None
        with _storage_answers():
            return await self._pixel_threads.run(self._storage.read, path)

    def signed_path(self, image: StoredImage) -> str:
        """`PATH?expires=…&signature=…`, valid for url_seconds; to be put behind a route."""
        expires = str(int(time.time()) + self.settings.url_seconds)
        signature = signed_urls.url_signature(self._url_secret, image.path, expires)
        return f"{image.path}?expires={expires}&signature={signature}"

    def check_signature(self, path: str, expires: str, signature: str) -> bool:
        """Whether a picture's URL is ours and its time is not over."""
        return signed_urls.is_valid_url(
            self._url_secret, path, expires, signature=signature, now_seconds=time.time()
        )

    async def has_keys(self) -> bool:
        """Whether a key is needed: false only if none was ever made."""
        return await self._database_threads.run(self._keys.are_configured)

    async def key(self, secret: str) -> KeyRecord | None:
        """The valid key with this text, in constant time."""
        return await self._database_threads.run(self._keys.find, secret)

    async def is_valid_key(self, key_id: str) -> bool:
        """Whether a key is not revoked; "" is whoever asked while there were no keys."""
        try:
            return not key_id or await self._database_threads.run(self._keys.is_valid, key_id)
        except SQLAlchemyError:  # a database that is away for a while ends no stream
            return True

    def models(self) -> list[ServedModel]:
        """The models that are served, the default one first."""
        return [ServedModel(name, one.sampler.info) for name, one in self._executors.items()]

    async def metrics_text(self) -> tuple[bytes, str]:
        """Prometheus's text and its content type."""
        counts = await self._database_threads.run(self._store.counts)
        return self.metrics.text(counts), CONTENT_TYPE

    def _open(self) -> None:
        settings = self.settings
        self._audit_log = auditing.log()
        self._database = Database(settings.database)
        self._database.migrate()
        self._storage = Storage(settings.storage)
        self._storage.check()
        limits = Limits(
            max_queue=settings.max_queue,
            key_concurrency=settings.key_concurrency,
            key_requests_per_minute=settings.key_requests_per_minute,
            result_seconds=settings.result_seconds,
        )
        self._store = JobStore(self._database, limits)
        self._keys = Keys(self._database)
        self._url_secret = self._store.secret("urls")
        self.webhooks = Webhooks(
            self._database,
            self._database_threads,
            delays_seconds=settings.webhook_delays_seconds,
            timeout_seconds=settings.webhook_timeout_seconds,
            metrics=self.metrics,
            post=self._post,
        )
        self.webhooks.body = self._webhook_body

    def _load(self) -> None:
        session = configured_session(self.settings)
        self.report_address = Policy.configured().report_address
        for model in (self.settings.model, *self.settings.more_models):
            executor = JobExecutor.load(model, self.settings, session)
            name = executor.sampler.info.name
            if name in self._executors:
                raise InputError(f"more_models: two are called {name}; name each once")
            self._executors[name] = executor

    def _put_down(self, new: NewJob) -> Job:
        """References first made safe, then the job visible; a refusal leaves nothing."""
        job = self._store.add(new)
        if not new.references:
            return job
        try:
            for index, data in enumerate(new.references):
                self._storage.write(f"references/{job.id}/{index}", data)
            self._store.open(job.id)
        except BaseException:
            self._store.forget(job.id)
            with contextlib.suppress(OSError):  # the first error says more
                self._storage.remove(f"references/{job.id}")
            raise
        return job

    def _is_here(self, job_id: str) -> bool:
        return self._worker is not None and self._worker.is_running(job_id)

    async def _looked(self, job_id: str) -> JobEvent | None:
        """What the database says of a job."""
        job = await self._database_threads.run(self._store.job, _clean(job_id), None)
        if job is None or job.status == JobStatus.PENDING:
            return None
        if job.status.is_final:
            return JobEnded(job)
        num_steps = job.request["num_inference_steps"] * job.request["num_images"]
        return JobProgress(round(job.progress * num_steps), num_steps)


@contextlib.contextmanager
def _storage_answers() -> Iterator[None]:
    """Raise Unavailable where the storage fails; the log says how."""
    try:
        yield
    except OSError as error:
        _log.error("storage: %s", error)
        raise Unavailable("the server's storage does not answer; try again later") from error


def _clean(job_id: str) -> str:
    """A job's id, or none: what is no id of ours is not asked for."""
    return job_id if re.fullmatch(r"[0-9a-f]{32}", job_id) else ""
