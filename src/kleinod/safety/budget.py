"""Processor time that one prompt may take in one filter of words.

Every pattern here takes time in proportion to a prompt's length; this is the net below, for a rule
that somebody adds. Counted is the thread's own time: a busy machine refuses nobody.
"""

import time

from kleinod.errors import InputError

PROMPT_SECONDS = 10.0


class Budget:
    """The time that is left; `check` stands between steps that are short by themselves."""

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = PROMPT_SECONDS if seconds is None else seconds
        self._end = time.thread_time() + self.seconds

    def check(self) -> None:
        """Raise InputError once the time is spent."""
        if time.thread_time() > self._end:
            raise InputError(
                f"prompt: judging it took over {self.seconds:g} s of processor time; shorten it"
            )
