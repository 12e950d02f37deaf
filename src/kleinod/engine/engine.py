"""The engine: one thread that turns waiting requests into pictures, a pass at a time.

A turn: let go of what was cancelled; begin what joins; one pass of the group whose turn it is;
decode what is finished. Groups of one shape take turns; within a pass nobody waits for others.
"""

import logging
import threading
import time
from types import TracebackType

from kleinod.diffusion.sampler import Sampler
from kleinod.engine.batcher import Bench
from kleinod.engine.engine_options import EngineOptions, EngineStats
from kleinod.engine.events import Cancelled, Failed, OnEvent, Started, Subscriber
from kleinod.engine.jobs import Job, Picture, Ticket
from kleinod.engine.queue import FairQueue
from kleinod.errors import EngineClosedError
from kleinod.request import ImageRequest, ResolvedRequest

_INTERNAL = "internal: the engine failed at it; the log has the rest, please report it"

_log = logging.getLogger(__name__)


class Engine:
    """Owns a sampler from now on: nobody else may use it.

    As a context it finishes what was submitted when the block ends; drops it if the block fails.
    """

    def __init__(self, sampler: Sampler, options: EngineOptions | None = None) -> None:
        self.sampler = sampler
        self.options = options or EngineOptions()
        self._bench = Bench(sampler, self.options, self._forget)
        # guards what follows
        self._changed = threading.Condition()
        self._queue = FairQueue(self.options.max_queue)
        self._open: set[Job] = set()
        self._cancelled: list[Job] = []
        self._is_closing = self._is_dropping = False
        self._thread = threading.Thread(target=self._run, name="kleinod-engine", daemon=True)
        self._thread.start()

    def submit(
        self,
        request: ImageRequest | ResolvedRequest,
        *,
        key: str = "",
        on_event: OnEvent,
        with_previews: bool = False,
    ) -> Ticket:
        """Take a request in; what becomes of it is told to on_event, in the engine's thread.

        on_event must not block (Mailbox.put does not). key: whose it is; keys get equal shares.
        Raises InputError, QueueFullError, EngineClosedError, all before anything is computed.
        """
        self._check_open()
        resolved = self.sampler.resolve(request)
        job = Job(
            request=resolved,
            shape=self.sampler.batch_key(resolved),
            key=key,
            subscriber=Subscriber(on_event),
            with_previews=with_previews,
        )
        with self._changed:
            self._check_open()
            self._queue.add(job)
            self._open.add(job)
            self._changed.notify()
        return Ticket(job, self._cancel)

    def stats(self) -> EngineStats:
        """What it holds and has done; from any thread."""
        with self._changed:
            return self._bench.stats.copy(queued=len(self._queue))

    @property
    def is_open(self) -> bool:
        """Whether it takes requests."""
        return not self._is_closing

    def close(self, *, finish: bool) -> None:
        """Take no more; finish what was accepted, or drop it at the next step; then return."""
        with self._changed:
            self._is_closing = True
            self._is_dropping = self._is_dropping or not finish
            self._changed.notify()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(finish=kind is None)

    def _check_open(self) -> None:
        if self._is_closing:
            raise EngineClosedError("engine: it is closed; make another one")
        with self._changed:
            self._queue.check_room()

    def _cancel(self, job: Job) -> None:
        with self._changed:
            if job.is_over or job.is_cancelled:
                return
            job.is_cancelled = True
            self._queue.remove(job)
            self._cancelled.append(job)
            self._changed.notify()

    def _run(self) -> None:
        while self._waited():
            try:
                self._turn()
            except Exception:  # the engine's edge: one bad turn must not be the last
                _log.exception("a turn of the engine failed")
                self._fail_all()
        self._drop_all()

    def _waited(self) -> bool:
        """Wait for work; False when it is time to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_work() or self._is_closing)
            return self._has_work() and not self._is_dropping

    def _has_work(self) -> bool:
        return bool(self._queue or self._cancelled or self._bench.is_busy)

    def _turn(self) -> None:
        self._let_go()
        self._bench.begin(self._joining())
        self._bench.step()
        self._bench.decode()

    def _let_go(self) -> None:
        with self._changed:
            cancelled, self._cancelled = self._cancelled, []
        for job in cancelled:
            self._bench.end(job, Cancelled())

    def _joining(self) -> list[Picture]:
        """The pictures that begin before the next pass: those of its shape that get a place."""
        with self._changed:
            turns = self._queue.turns(self._bench.num_places, self._bench.room)
            shape = self._bench.next_shape([job.shape for job in turns])
            chosen = [job for job in turns if job.shape == shape]
            pictures = [Picture(job, self._queue.take(job)) for job in chosen]
        for picture in pictures:
            if picture.index == 0:
                picture.job.clock("queue", time.perf_counter() - picture.job.submitted)
                picture.job.subscriber.tell(Started())
        return pictures

    def _forget(self, job: Job) -> None:
        """A job has ended; its pictures do not wait any longer."""
        with self._changed:
            self._open.discard(job)
            self._queue.remove(job)

    def _fail_all(self) -> None:
        """After an error of the engine's own: all that was begun, else all."""
        with self._changed:
            jobs = [job for job in self._open if job.num_begun] or list(self._open)
        for job in jobs:
            self._bench.end(job, Failed(_INTERNAL))

    def _drop_all(self) -> None:
        with self._changed:
            jobs = list(self._open)
        for job in jobs:
            self._bench.end(job, Cancelled(by_closing=not job.is_cancelled))
