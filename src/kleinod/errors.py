"""What can go wrong, by who can mend it. Knows nothing about torch."""

from collections.abc import Sequence
from typing import Any


class KleinodError(Exception):
    """Everything that kleinod raises on purpose."""


class QueueFullError(KleinodError):
    """The engine holds as many waiting requests as it may; try again later."""


class EngineClosedError(KleinodError):
    """The engine takes no more requests."""


class InputError(KleinodError):
    """A user's mistake: names the field, the value, the limit and the remedy (exit status 2)."""


class WeightsError(InputError):
    """A file or folder that cannot be used as a model, and why."""


class MemoryLimitError(KleinodError):
    """The memory of the device or of the machine does not suffice, and what would (status 1)."""


class NumericalError(KleinodError):
    """The computation left the finite numbers (exit status 1)."""


class FilterError(KleinodError):
    """A safety filter that cannot load or that crashed: nothing is painted (exit status 1)."""


class SigningError(KleinodError):
    """A finished file could not be signed (exit status 1); the image itself is kept."""


class ModeratedError(KleinodError):
    """A filter blocked a prompt, a reference or a result (exit status 3).

    `moment` is "prompt", "reference" or "result"; `verdicts` are those that blocked it; `where`
    names the image, where it is one of several. The message
    is one line with moment, category, which settings change it, and where to report a mistake, if
    the operator names a place; it never repeats what was found.
    """

    def __init__(
        self,
        moment: str,
        verdicts: Sequence[Any],
        report_address: str | None = None,
        *,
        remedy: str = "",
    ) -> None:
        self.moment, self.verdicts = moment, tuple(verdicts)
        found = "; ".join(map(str, self.verdicts))
        report = f"report a mistake to {report_address}" if report_address else ""
        self._summary, self._report = f"the {moment} was blocked: {found}", report
        self.where = ""
        super().__init__(self.message(remedy))

    def __str__(self) -> str:
        return f"{self.where}: {self.args[0]}" if self.where else str(self.args[0])

    def message(self, remedy: str = "") -> str:
        """The line with other words for the settings that change it, or none."""
        line = "; ".join(filter(None, (self._summary, remedy, self._report)))
        return f"{self.where}: {line}" if self.where else line
