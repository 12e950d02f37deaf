"""Takes jobs from the database, has them painted, stores the pictures, says that they are ready.

    claim ── prepare ── engine ── mark, sign, encode ── store the pictures ── READY

A picture's name is its job's and its attempt's, and a new attempt removes what others left: one
result, however often a job was begun, and a server that stalled while it stored writes over none.
Lives on the event loop; all that blocks is in threads.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from PIL import Image
from sqlalchemy.exc import SQLAlchemyError

from kleinod.audit.audit_log import AuditLog
from kleinod.diffusion.sampler import SampledImage
from kleinod.engine import Cancelled, Event, Failed, Finished, Progress, Ticket
from kleinod.errors import InputError, KleinodError, ModeratedError
from kleinod.server import auditing
from kleinod.server.job_queue import job_log, outcomes
from kleinod.server.job_queue.claims import Claim, Claims, Outcome
from kleinod.server.job_queue.executor import FinishedJob, JobExecutor
from kleinod.server.job_queue.job import Job, JobEnded, JobProgress, JobStatus, StoredImage
from kleinod.server.job_queue.storage import Storage
from kleinod.server.job_queue.subscriptions import Hub
from kleinod.server.metrics import Metrics
from kleinod.server.settings import Settings
from kleinod.server.threads import Arguments, Result, Threads
from kleinod.session import PreparedRequest

# other servers on the same database may have accepted jobs
_POLL_SECONDS = 1.0
_TICK_SECONDS = 0.5
_RETRY_SECONDS = 1.0
STORAGE_FAILED = "a file could not be read or written here; try again later"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a worker works with."""

    claims: Claims
    storage: Storage
    hub: Hub
    metrics: Metrics
    executors: Mapping[str, JobExecutor]
    database_threads: Threads
    pixel_threads: Threads
    audit_log: AuditLog | None


@dataclass(eq=False)
class _Active:
    """A job in the works."""

    claim: Claim
    painted: "asyncio.Future[list[SampledImage]]"
    task: "asyncio.Task[None] | None" = None
    ticket: Ticket | None = None
    progress: float = 0.0
    is_cancelled: bool = False
    is_previewing: bool = False
    timings: dict[str, float] = field(default_factory=dict)


class _PaintingFailed(KleinodError):
    """The engine says why."""


class _PaintingCancelled(KleinodError):
    """Somebody wanted it no more."""


class Worker:
    """One process's worker."""

    def __init__(self, parts: Parts, settings: Settings) -> None:
        self._parts, self._settings = parts, settings
        # enough that the next ones are prepared while a batch is painted
        self._room = 2 * settings.max_batch
        self._active: dict[str, _Active] = {}
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._is_stopping = False

    async def start(self) -> None:
        """Appear in the database, take over from the dead, begin."""
        await self._database(self._parts.claims.register)
        await self._bury()
        self._loops = [
            asyncio.create_task(self._claiming(), name="claiming"),
            asyncio.create_task(self._beating(), name="beating"),
        ]

    def wake(self) -> None:
        """Look for jobs now."""
        self._wake.set()

    def is_running(self, job_id: str) -> bool:
        """Whether this process has the job in the works."""
        return job_id in self._active

    def progress(self, job_id: str) -> float:
        """How far it is, from 0 to 1; 0 if it is not here."""
        active = self._active.get(job_id)
        return 0.0 if active is None else active.progress

    def cancel(self, job_id: str) -> None:
        """Free the job's place at the next step; nothing happens if it is not here."""
        active = self._active.get(job_id)
        if active is not None:
            active.is_cancelled = True
            if active.ticket is not None:
                active.ticket.cancel()

    async def stop(self, *, finish_seconds: float) -> None:
        """Take no more, finish what runs for so long, give the rest back."""
        self._is_stopping = True
        self._wake.set()
        claiming, beating = self._loops
        await claiming
        tasks = [active.task for active in self._active.values() if active.task]
        if tasks:
            await asyncio.wait(tasks, timeout=max(0.001, finish_seconds))
        left = list(self._active)
        for active in list(self._active.values()):
            if active.ticket is not None:
                active.ticket.cancel()
            if active.task is not None:
                active.task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await self._database(self._parts.claims.give_back, left)
        await self._database(self._parts.claims.leave)

    async def _claiming(self) -> None:
        while not self._is_stopping:
            self._wake.clear()
            claimed: list[Claim] = []
            with _surviving():
                claimed = await self._next()
            for claim in claimed:
                self._begin(claim)
            if not claimed and not self._is_stopping:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_SECONDS):
                        await self._wake.wait()

    async def _next(self) -> list[Claim]:
        """Jobs that may begin now; a suspect runs alone, after the others unless it waited long."""
        claims, running = self._parts.claims, self._active.values()
        room = self._room - len(running)
        if room <= 0 or any(active.claim.is_suspect for active in running):
            return []
        if await self._database(claims.is_suspect_due):
            return [] if running else await self._database(claims.take_suspect)
        fresh = await self._database(claims.take, room)
        if fresh or running:
            return fresh
        return await self._database(claims.take_suspect)

    def _begin(self, claim: Claim) -> None:
        loop = asyncio.get_running_loop()
        job_log.log_start(claim.job, has_prompt=self._settings.log_prompts)
        active = _Active(claim, loop.create_future())
        self._active[claim.job.id] = active
        active.task = asyncio.create_task(self._work(active), name=f"job {claim.job.id}")

    async def _work(self, active: _Active) -> None:
        job_id = active.claim.job.id
        try:
            outcome = await self._outcome(active)
            await self._end(active, outcome)
        finally:
            del self._active[job_id]
            self._wake.set()

    async def _end(self, active: _Active, outcome: Outcome) -> None:
        """Say it in the database, as often as it takes; then to those who listen."""
        job_id = active.claim.job.id
        while True:
            with _surviving():
                job = await self._database(self._parts.claims.end, job_id, outcome)
                break
            await asyncio.sleep(_RETRY_SECONDS)
        if job is None:
            _log.warning("job %s was taken from this server; its result is dropped", job_id)
            await self._drop(outcome)
            return
        job_log.log_end(job)
        self._parts.metrics.count_job(job)
        self._parts.hub.publish(job_id, JobEnded(job))
        await self._audited(job)
        if outcome.results and not job.results:
            await self._remove(f"results/{job_id}")
        if active.claim.num_references:
            await self._remove(f"references/{job_id}")

    async def _drop(self, outcome: Outcome) -> None:
        """Remove the files that a stalled server wrote: by now the job is another's, or gone."""
        for image in outcome.results:
            await self._remove(image.path)

    async def _remove(self, name: str) -> None:
        """Remove from the storage; what stays there now goes when the job is old."""
        try:
            await self._pixels(self._parts.storage.remove, name)
        except OSError as error:
            _log.error("storage: %s is not removed: %s", name, error)

    async def _audited(self, job: Job) -> None:
        """Tell the audit log of a job that gave nothing; it has failed already."""
        try:
            await self._pixels(auditing.ended_without, self._parts.audit_log, job)
        except InputError as error:
            _log.error("job %s is not in the audit log: %s", job.id, error)

    async def _outcome(self, active: _Active) -> Outcome:
        try:
            return await self._result(active)
        except _PaintingCancelled:
            return Outcome(JobStatus.CANCELLED)
        except KleinodError as error:
            is_users_fault = isinstance(error, InputError)
            if not is_users_fault:
                _log.error("job %s failed: %s", active.claim.job.id, error)
            return Outcome(JobStatus.FAILED, error=str(error), is_users_fault=is_users_fault)
        except OSError as error:
            _log.error("job %s failed: %s", active.claim.job.id, error)
            await self._remove(f"results/{active.claim.job.id}")
            return Outcome(JobStatus.FAILED, error=STORAGE_FAILED)
        except Exception:  # the edge: a bug; the job ends and the server goes on
            _log.exception("job %s failed", active.claim.job.id)
            return Outcome(JobStatus.FAILED, error="internal error; the server's log says more")

    async def _result(self, active: _Active) -> Outcome:
        claim = active.claim
        executor = self._parts.executors[claim.job.model]
        try:
            prepared = await self._pixels(self._prepared, executor, claim)
        except ModeratedError as error:
            return outcomes.moderated([error], JobStatus.REQUEST_MODERATED)
        active.ticket = self._submitted(executor, prepared, active)
        if active.is_cancelled:
            active.ticket.cancel()
        painted = await active.painted
        start = time.perf_counter()
        finished = await self._pixels(executor.finish, prepared, painted)
        results = await self._pixels(self._stored, claim, finished)
        errors = [one.error for one in finished.blocked]
        if not results:
            return outcomes.moderated(errors, JobStatus.CONTENT_MODERATED)
        self._parts.metrics.observe_stages(
            active.timings | {"finish_seconds": time.perf_counter() - start}
        )
        categories = outcomes.categories(errors)
        return Outcome(JobStatus.READY, moderation=categories, results=results)

    def _prepared(self, executor: JobExecutor, claim: Claim) -> PreparedRequest:
        names = [f"references/{claim.job.id}/{index}" for index in range(claim.num_references)]
        references = [self._parts.storage.read(name) for name in names]
        found = [data for data in references if data is not None]
        if len(found) < len(names):
            raise OSError(f"{len(names) - len(found)} reference pictures are not in the storage")
        return executor.prepare(claim, found, self._parts.audit_log)

    def _stored(self, claim: Claim, finished: FinishedJob) -> tuple[StoredImage, ...]:
        results, format_name = [], claim.job.output_format
        outcomes.remove_earlier(self._parts.storage, claim.job)
        for one in finished.images:
            path = outcomes.result_path(claim.job, claim.job.attempts, one.index)
            self._parts.storage.write_surely(path, one.data)
            results.append(StoredImage(path, one.seed, *one.image.size, format_name))
        return tuple(results)

    def _submitted(
        self, executor: JobExecutor, prepared: PreparedRequest, active: _Active
    ) -> Ticket:
        loop = asyncio.get_running_loop()

        def on_event(event: Event) -> None:
            # in the engine's thread: hand over and go on
            loop.call_soon_threadsafe(self._heard, active, event)

        return executor.submit(
            prepared,
            on_event,
            key=active.claim.job.key_id,
            with_previews=active.claim.with_previews,
        )

    def _heard(self, active: _Active, event: Event) -> None:
        if isinstance(event, Progress):
            active.progress = event.index / event.num_steps
            self._tell(active, event)
        elif active.painted.done():
            return
        elif isinstance(event, Finished):
            active.timings = dict(event.timings)
            active.painted.set_result(list(event.images))
        elif isinstance(event, Cancelled):
            active.painted.set_exception(_PaintingCancelled("cancelled"))
        elif isinstance(event, Failed):
            kind = InputError if event.is_users_fault else _PaintingFailed
            active.painted.set_exception(kind(event.reason))

    def _tell(self, active: _Active, event: Progress) -> None:
        """Progress to those who listen; a preview only if the last one is encoded already."""
        if event.preview is None or active.is_previewing:
            self._parts.hub.publish(active.claim.job.id, JobProgress(event.index, event.num_steps))
            return
        active.is_previewing = True
        task = asyncio.create_task(self._tell_preview(active, event, event.preview))
        task.add_done_callback(lambda _: setattr(active, "is_previewing", False))

    async def _tell_preview(self, active: _Active, event: Progress, preview: Image.Image) -> None:
        data = await self._pixels(outcomes.preview_jpeg, preview)
        told = JobProgress(event.index, event.num_steps, data)
        self._parts.hub.publish(active.claim.job.id, told)

    async def _beating(self) -> None:
        """Renew the lease, put down progress, hear of cancelled jobs, take over from the dead."""
        interval = self._settings.lease_seconds / 4
        told: dict[str, float] = {}
        last = buried = time.monotonic()
        while True:
            await asyncio.sleep(min(_TICK_SECONDS, interval))
            progress = {job_id: active.progress for job_id, active in self._active.items()}
            if progress != told or time.monotonic() - last >= interval:
                with _surviving():
                    await self._beat(progress)
                    told, last = progress, time.monotonic()
            if time.monotonic() - buried >= interval:
                with _surviving():
                    await self._bury()
                buried = time.monotonic()

    async def _beat(self, progress: dict[str, float]) -> None:
        beat = await self._database(self._parts.claims.beat, progress)
        for job_id in beat.cancelled:
            self.cancel(job_id)
        if not beat.is_alive:
            _log.warning("this server was silent for too long; others have taken its jobs")
            for job_id in list(self._active):
                self.cancel(job_id)
            # nothing is taken meanwhile: the worker that could take it is gone
            await self._all_ended()
            await self._database(self._parts.claims.register)

    async def _all_ended(self) -> None:
        tasks = [active.task for active in self._active.values() if active.task]
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _bury(self) -> None:
        burial = await self._database(self._parts.claims.bury)
        for job_id in burial.waiting:
            _log.warning("job %s waits again: the server that painted it is gone", job_id)
        for job in burial.ended:
            _log.error("job %s: %s", job.id, job.error or job.status)
            await self._audited(job)
            self._parts.metrics.count_job(job)
            self._parts.hub.publish(job.id, JobEnded(job))
        self._wake.set()

    async def _database(
        self, work: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        return await self._parts.database_threads.run(work, *arguments)

    async def _pixels(self, work: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        return await self._parts.pixel_threads.run(work, *arguments)


@contextlib.contextmanager
def _surviving() -> Iterator[None]:
    """A database that is away for a while stops nothing here for good."""
    try:
        yield
    except SQLAlchemyError as error:
        _log.error("database: %s; trying again", " ".join(str(error).split()))
