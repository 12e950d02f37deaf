"""What can go wrong, by who can mend it. Knows nothing about torch."""


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
