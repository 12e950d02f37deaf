"""Pages of files that tensors lie in: which they are, having them read, letting them go.

A tensor of a mapped file takes memory from its first use on. The pages are the file's: what is let
go is read again when it is next used. Only Linux can be told; elsewhere the system decides alone.
"""

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

# Linux: read ahead; forget; have the pages in place
_WILLNEED, _DONTNEED, _POPULATE_READ = 3, 4, 22
# smaller tensors share their pages with others
_FEWEST_BYTES = 1 << 16

Range = tuple[int, int]


def mapped_ranges(tensors: Iterable[Tensor]) -> list[Range]:
    """Address and size of the whole pages of each large tensor that lies in a mapped file."""
    large = [t for t in tensors if t.device.type == "cpu" and t.nbytes >= _FEWEST_BYTES]
    if not large or not sys.platform.startswith("linux"):
        return []
    files = _mapped_files()
    pages = [_whole_pages(tensor) for tensor in large]
    return [(start, stop - start) for start, stop in pages if _holds(files, start, stop)]


def read_ahead(ranges: Iterable[Range]) -> None:
    """Have pages read and in place; blocks until they are."""
    for start, size in ranges:
        # the second is for Linux 5.14 and later; an older one has been told by the first
        _advise(start, size, _WILLNEED)
        _advise(start, size, _POPULATE_READ)


def let_go(ranges: Iterable[Range]) -> None:
    """Pages are no longer this process's memory."""
    for start, size in ranges:
        _advise(start, size, _DONTNEED)


def _advise(start: int, size: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def _whole_pages(tensor: Tensor) -> Range:
    page = mmap.PAGESIZE
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return -(-first // page) * page, last // page * page


def _mapped_files() -> list[Range]:
    """Where this process has files mapped: only there may pages be let go."""
    ranges: list[Range] = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, _, _, _, inode = line.split()[:5]
        if inode != "0":
            start, stop = (int(address, 16) for address in addresses.split("-"))
            ranges.append((start, stop))
    return sorted(ranges)


def _holds(files: list[Range], start: int, stop: int) -> bool:
    """Whether a range lies in one mapping."""
    index = bisect_right(files, (start, sys.maxsize)) - 1
    return index >= 0 and start < stop <= files[index][1]
