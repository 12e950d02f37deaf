"""Memory of this process. None where the system does not tell."""

import sys
import threading
import time
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_bytes() -> int | None:
    """The most that was resident, mapped file pages included."""
    peak = _kilobytes(_STATUS, "VmHWM")
    if peak is not None:
        return peak
    try:
        import resource
    except ImportError:
        return None
    # bytes on macOS, kilobytes elsewhere
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def private_bytes() -> int | None:
    """What is resident now and belongs to no file."""
    return _kilobytes(_STATUS, "RssAnon")


def _kilobytes(file: Path, name: str) -> int | None:
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{name}:"), None)


class PrivatePeak:
    """Looks at the private memory fifty times a second, from a thread that dies with the process.

    The kernel keeps a peak of the whole resident set only.
    """

    def __init__(self) -> None:
        self.largest = private_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (now := private_bytes()) is not None:
            self.largest = max(self.largest or 0, now)
            time.sleep(0.02)
