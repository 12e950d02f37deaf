"""Where a command's seconds went, from the start of its process on; the parts add up to the sum."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_IMPORTED = time.perf_counter()
# what a process can have taken from its start to this import; over it the clocks do not fit
_MAX_START_SECONDS = 60.0


def seconds_since_process_start() -> float:
    """Linux tells when the process began; elsewhere since this module was imported."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        started = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        seconds = time.clock_gettime(time.CLOCK_BOOTTIME) - started
    except (OSError, ValueError, IndexError, AttributeError):
        return time.perf_counter() - _IMPORTED
    is_plausible = 0 <= seconds - (time.perf_counter() - _IMPORTED) < _MAX_START_SECONDS
    return seconds if is_plausible else time.perf_counter() - _IMPORTED


@dataclass
class Stopwatch:
    """Seconds by stage, named `<stage>_seconds`, in the order of the stages."""

    timings: dict[str, float] = field(default_factory=dict)
    _last: float = field(default_factory=time.perf_counter)

    @classmethod
    def since_process_start(cls) -> "Stopwatch":
        """With the stage `start`: from the start of the process to now."""
        return cls({"start_seconds": seconds_since_process_start()})

    def lap(self, stage: str, parts: Mapping[str, float] | None = None) -> None:
        """Give the seconds since the last lap to a stage; of those, `parts` to others."""
        now = time.perf_counter()
        self.timings |= dict(parts or {})
        name = f"{stage}_seconds"
        rest = now - self._last - sum((parts or {}).values())
        self.timings[name] = self.timings.get(name, 0.0) + max(rest, 0.0)
        self._last = now

    def report(self) -> dict[str, float]:
        """Every stage, and `total_seconds`, their sum."""
        return self.timings | {"total_seconds": sum(self.timings.values())}
