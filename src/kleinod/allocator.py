"""What happens to memory that torch lets go, and what to say when there is not enough of it.

On the CPU a block's largest tensors would be given back to the system each time and their pages
made anew for the next: a tenth of a block's time. So freed memory is kept for the next operation,
and given back between the stages of a picture. Only glibc can be told; elsewhere nothing changes.
"""

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kleinod.errors import MemoryLimitError

# glibc's malloc.h: give back the top of the heap, ask the system for a block, number of heaps
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """From now on, in this process, blocks of up to 1 GB come from a heap that does not shrink."""
    libc = _glibc()
    if libc is not None:
        libc.mallopt(_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_TRIM_THRESHOLD, 2 * _KEPT_BYTES - 1)
        # another thread's own heap could not hold such blocks
        libc.mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """What is kept and free goes to the system."""
    libc = _glibc()
    if libc is not None:
        libc.malloc_trim(0)


def available_bytes() -> int:
    """Memory of the machine that is free or only caches files; 0 where the system does not tell."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    libc = ctypes.CDLL(None)
    return libc if hasattr(libc, "mallopt") and hasattr(libc, "malloc_trim") else None


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
