"""Ctrl-C, SIGTERM and a closed terminal while a step is computed: noted, and acted on after it."""

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
_NOTICE = b"\nstopping after this step; Ctrl-C again stops at once\n"


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a run; its checkpoint at `step` of `steps` is complete."""

    def __init__(self, step: int, steps: int, signal_number: int) -> None:
        super().__init__(f"stopped at step {step} of {steps}")
        self.step, self.steps, self.signal_number = step, steps, signal_number


@contextlib.contextmanager
def deferred(*, is_alone: bool = True) -> Iterator[Callable[[], int | None]]:
    """Gives a function that returns the first signal that arrived meanwhile, or None.

    A second Ctrl-C raises KeyboardInterrupt at once, unless other processes take part (not
    `is_alone`): torchrun repeats every signal. Does nothing outside of the main thread.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT and is_alone:
            raise KeyboardInterrupt
        if not received and number == signal.SIGINT and is_alone:
            with contextlib.suppress(OSError):
                os.write(2, _NOTICE)  # print may be in the middle of a line
        received.append(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        # nohup and background jobs ignore a signal on purpose
        wanted = [n for n in _SIGNALS if signal.getsignal(n) is not signal.SIG_IGN]
        previous = {number: signal.signal(number, note) for number in wanted}
    try:
        yield lambda: received[0] if received else None
    finally:
        for number, handler in previous.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
