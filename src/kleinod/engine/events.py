"""What an engine tells about a request, and how a reader keeps up with it.

A request that was accepted gets Started (unless it ended before), Progress after each of its
passes, and one end: Finished, Failed or Cancelled.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from PIL import Image

from kleinod.diffusion.sampler import SampledImage

# a subscriber that takes longer holds up everybody's next step; a busy machine takes 0.05
SLOW_SECONDS = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Started:
    """The request's first picture has left the queue."""


@dataclass(frozen=True)
class Progress:
    """Steps done and to do, over all pictures of the request; a small picture if asked for.

    picture: which of the request's pictures the preview shows, counted from 0.
    """

    index: int
    num_steps: int
    preview: Image.Image | None = None
    picture: int = 0


@dataclass(frozen=True)
class Finished:
    """The pictures, and seconds: queue, text, encode, denoise, decode, total.

    Work that was shared counts in full for each request that shared it.
    """

    images: list[SampledImage]
    timings: dict[str, float]


@dataclass(frozen=True)
class Failed:
    """Why there is no picture, in one line, and whether the request is at fault."""

    reason: str
    is_users_fault: bool = False


@dataclass(frozen=True)
class Cancelled:
    """Its ticket was cancelled; or, if by_closing, the engine was closed before it was done."""

    by_closing: bool = False


Event = Started | Progress | Finished | Failed | Cancelled
End = Finished | Failed | Cancelled
OnEvent = Callable[[Event], None]


@dataclass
class Subscriber:
    """Who is told; dropped when it raises, told no more Progress once it was slow."""

    on_event: OnEvent | None
    is_slow: bool = False

    def tell(self, event: Event) -> None:
        """Call it, and never raise."""
        if self.on_event is None or (self.is_slow and isinstance(event, Progress)):
            return
        start = time.perf_counter()
        try:
            self.on_event(event)
        except Exception:
            _log.exception("a subscriber raised at %s; it is told no more", type(event).__name__)
            self.on_event = None
        seconds = time.perf_counter() - start
        if seconds > SLOW_SECONDS and not self.is_slow:
            self.is_slow = True
            _log.warning("a subscriber took %.2f s; it is told only the end", seconds)


@dataclass
class Mailbox:
    """Events for a reader in another thread at its own pace; `put` is an on_event.

    Of several Progress that wait only the newest is kept, so it never grows.
    """

    _events: deque[Event] = field(default_factory=deque)
    _changed: threading.Condition = field(default_factory=threading.Condition, repr=False)

    def put(self, event: Event) -> None:
        """Lay an event in; never waits for the reader."""
        with self._changed:
            last = self._events[-1] if self._events else None
            if isinstance(last, Progress) and isinstance(event, Progress):
                self._events.pop()
            self._events.append(event)
            self._changed.notify()

    def get(self, timeout: float | None = None) -> Event:
        """The next event; waits for it at most timeout seconds. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(lambda: bool(self._events), timeout):
                raise TimeoutError(f"no event within {timeout} s")
            return self._events.popleft()

    def __iter__(self) -> Iterator[Event]:
        """Every event up to the end."""
        while True:
            event = self.get()
            yield event
            if isinstance(event, End):
                return
