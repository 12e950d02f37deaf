"""How torch asks for memory, how much there is, and what to say when it is not enough."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from kleinod.errors import MemoryLimitError


def use_large_pages() -> None:
    """Let torch ask Linux for pages of 2 MB for large tensors on the CPU.

    A block's widest tensors are made and forgotten in each step, and to have their pages of 4 KB
    made takes a tenth of its time. torch reads this at its first tensor; later it does nothing.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")


def available_bytes() -> int:
    """Memory of the machine that is free or only caches files; 0 where the system does not tell."""
    file = Path("/proc/meminfo")
    lines = file.read_text().splitlines() if file.is_file() else []
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))


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
