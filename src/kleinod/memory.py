"""How torch asks for memory, how much there is, and what to say when it is not enough."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kleinod.errors import MemoryLimitError

_STATUS = Path("/proc/self/status")


def use_large_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors on the CPU.

    A block's widest tensors are made and forgotten in each step, and to have their pages of 4 KB
    made takes a tenth of its time. torch reads this at its first tensor; later it does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def available_bytes() -> int:
    """Memory of the machine that is free or only caches files; 0 where the system does not tell."""
    return _told(Path("/proc/meminfo"), "MemAvailable") or 0


def peak_bytes() -> int | None:
    """The most of this process that was resident, mapped file pages included; None: not told."""
    peak = _told(_STATUS, "VmHWM")
    if peak is not None:
        return peak
    try:
        import resource  # not on Windows
    except ImportError:
        return None
    # bytes on macOS, kilobytes elsewhere
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def private_bytes() -> int | None:
    """What of this process is resident now and belongs to no file; None: not told."""
    return _told(_STATUS, "RssAnon")


def _told(file: Path, name: str) -> int | None:
    """Bytes of a line in a file of Linux's /proc."""
    if not file.is_file():
        return None
    lines = (line.split() for line in file.read_text().splitlines())
    return next((int(words[1]) * 1024 for words in lines if words[0] == f"{name}:"), None)


@contextmanager
def memory_told(remedies: Callable[[], str]) -> Iterator[None]:
    """Make torch's report of too little memory one line that ends in remedies."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        raise MemoryLimitError(f"memory: there is not enough of it; {remedies()}") from error


def _is_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    # on the CPU and on mps it is an ordinary RuntimeError
    text = str(error)
    return any(words in text for words in ("can't allocate memory", "out of memory"))
