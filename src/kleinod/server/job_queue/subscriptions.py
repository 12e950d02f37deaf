"""What happens to jobs, told within this process: the newest progress wins, the end is never lost.

A subscriber that is slow skips steps; nobody waits for it. Lives on the event loop's thread only.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from kleinod.server.job_queue.job import JobEnded, JobEvent, JobProgress


class Subscriber:
    """Room for one progress and the end."""

    def __init__(self) -> None:
        self._news = asyncio.Event()
        self._progress: JobProgress | None = None
        self._end: JobEnded | None = None

    def put(self, event: JobEvent) -> None:
        """Tell it, over the last progress that was not taken."""
        if isinstance(event, JobEnded):
            self._end = event
        else:
            self._progress = event
        self._news.set()

    async def take(self, timeout_seconds: float) -> JobEvent | None:
        """The next event; None if nothing happened for so long."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        progress, self._progress = self._progress, None
        if progress is None:
            return self._end
        if self._end is not None:
            self._news.set()
        return progress


class Hub:
    """Subscribers by job."""

    def __init__(self) -> None:
        self._subscribers: defaultdict[str, set[Subscriber]] = defaultdict(set)

    @contextmanager
    def subscribed(self, job_id: str) -> Iterator[Subscriber]:
        """A subscriber to a job's events for as long as the block runs."""
        subscriber = Subscriber()
        self._subscribers[job_id].add(subscriber)
        try:
            yield subscriber
        finally:
            self._subscribers[job_id].discard(subscriber)
            if not self._subscribers[job_id]:
                del self._subscribers[job_id]

    def publish(self, job_id: str, event: JobEvent) -> None:
        """Tell all subscribers of a job."""
        for subscriber in self._subscribers.get(job_id, ()):
            subscriber.put(event)
