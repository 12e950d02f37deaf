"""Requests that wait, in turn by key: a place goes to the key that was given least work so far.

So a key with fifty requests gets every second place as soon as another key wants one. Within a key
the oldest request whose shape has room is first. Not safe for threads: the engine holds a lock.
"""

from collections import Counter, deque
from collections.abc import Callable

from kleinod.diffusion.denoising import Shape
from kleinod.engine.jobs import Job
from kleinod.errors import QueueFullError


class FairQueue:
    """A bounded queue of jobs with pictures that are not begun."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._lines: dict[str, deque[Job]] = {}
        # work given to each waiting key; one that comes anew starts at the least of them
        self._given: dict[str, int] = {}
        self._floor = 0

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def check_room(self) -> None:
        """Raise QueueFullError if one more would be too many."""
        if len(self) >= self.capacity:
            raise QueueFullError(f"queue: {self.capacity} requests wait already; try again later")

    def add(self, job: Job) -> None:
        """To the end of its key's line. Raises QueueFullError."""
        self.check_room()
        if job.key not in self._lines:
            self._lines[job.key] = deque()
            self._given[job.key] = min(self._given.values(), default=self._floor)
        self._lines[job.key].append(job)

    def remove(self, job: Job) -> None:
        """Take a job out, if it is in."""
        line = self._lines.get(job.key, deque())
        if job in line:
            line.remove(job)
            self._forget_if_empty(job.key)

    def turns(self, places: int, room: Callable[[Shape], int]) -> list[Job]:
        """Whose pictures get the free places, in order; a job as often as it gets one.

        room: how many more pictures of a shape may be under way.
        """
        given, begun, shapes = dict(self._given), Counter[Job](), Counter[Shape]()
        turns: list[Job] = []

        def is_next(job: Job) -> bool:
            has_room = shapes[job.shape] < room(job.shape)
            return begun[job] < job.num_waiting and has_room

        while len(turns) < places:
            firsts = (next(filter(is_next, self._lines[key]), None) for key in self._order(given))
            job = next(filter(None, firsts), None)
            if job is None:
                break
            turns.append(job)
            begun[job] += 1
            shapes[job.shape] += 1
            given[job.key] += job.work
        return turns

    def take(self, job: Job) -> int:
        """Begin the job's next picture, and say which."""
        index = job.num_begun
        job.num_begun += 1
        self._given[job.key] += job.work
        self._floor = max(self._floor, min(self._given.values()))
        if not job.num_waiting:
            self.remove(job)
        return index

    def _order(self, given: dict[str, int]) -> list[str]:
        return sorted(self._lines, key=lambda key: given[key])

    def _forget_if_empty(self, key: str) -> None:
        if not self._lines[key]:
            del self._lines[key], self._given[key]
