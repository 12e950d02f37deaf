"""Blocks of a mapped module that are in memory only while they compute.

A mapped weight takes memory from its first use on. After a block has run, its pages are let go
(they are the file's, nothing is lost), and while it runs, a thread has the next block's read. So a
model of any size needs the memory of two blocks, and as much of the system's own cache as is free.
Knows nothing about which model it is; only Linux can be told, elsewhere the system decides alone.
"""

import ctypes
import mmap
import sys
from bisect import bisect_right
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from torch import Tensor, nn

# Linux: read ahead; forget; have the pages in place
_WILLNEED, _DONTNEED, _POPULATE_READ = 3, 4, 22
_FEWEST_BYTES = 1 << 16

Range = tuple[int, int]


def stream(module: nn.Module) -> bool:
    """Let go of each block after its use from now on; whether anything of the module is mapped."""
    if not sys.platform.startswith("linux"):
        return False
    files = _Files()
    ranges = [list(_mapped(block, files)) for block in _blocks(module)]
    if not any(ranges):
        return False
    reader = _Reader(ranges)
    for index, block in enumerate(_blocks(module)):
        block.register_forward_pre_hook(_before(reader, index))
        block.register_forward_hook(_after(reader, index))
    return True


def _blocks(module: nn.Module) -> list[nn.Module]:
    """The items of the outermost lists: what a model runs one after the other."""
    found: list[nn.Module] = []
    for child in module.children():
        found += child if isinstance(child, nn.ModuleList) else _blocks(child)
    return found


def _before(reader: "_Reader", index: int) -> Any:  # noqa: ANN401 - torch's type of a hook
    return lambda block, inputs: reader.begin(index)


def _after(reader: "_Reader", index: int) -> Any:  # noqa: ANN401
    return lambda block, inputs, output: reader.end(index)


class _Reader:
    """One thread that has the next block's pages read; after the last block comes the first."""

    def __init__(self, ranges: list[list[Range]]) -> None:
        self._ranges = ranges
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kleinod-stream")
        self._coming: Future[None] | None = None

    def begin(self, index: int) -> None:
        # what is still being read is this block
        if self._coming is not None:
            self._coming.result()
        following = (index + 1) % len(self._ranges)
        self._coming = self._pool.submit(self._read, following)

    def end(self, index: int) -> None:
        for start, size in self._ranges[index]:
            _advise(start, size, _DONTNEED)

    def _read(self, index: int) -> None:
        for start, size in self._ranges[index]:
            # the second is for Linux 5.14 and later; an older one has been told by the first
            _advise(start, size, _WILLNEED)
            _advise(start, size, _POPULATE_READ)


def _advise(start: int, size: int, advice: int) -> None:
    ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), advice)


def _mapped(block: nn.Module, files: "_Files") -> Iterator[Range]:
    """Start and size of the whole pages of a block's large tensors that are a file's."""
    for tensor in chain(block.parameters(), block.buffers()):
        if tensor.device.type == "cpu" and tensor.nbytes >= _FEWEST_BYTES:
            start, stop = _whole_pages(tensor)
            if files.hold(start, stop):
                yield start, stop - start


def _whole_pages(tensor: Tensor) -> Range:
    page = mmap.PAGESIZE
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    return -(-first // page) * page, last // page * page


class _Files:
    """Where this process has files mapped: only there may pages be let go."""

    def __init__(self) -> None:
        ranges: list[Range] = []
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, _, _, _, inode = line.split()[:5]
            if inode != "0":
                start, stop = (int(address, 16) for address in addresses.split("-"))
                ranges.append((start, stop))
        self._ranges = sorted(ranges)

    def hold(self, start: int, stop: int) -> bool:
        """Whether a range lies in one mapping."""
        index = bisect_right(self._ranges, (start, sys.maxsize)) - 1
        return index >= 0 and start < stop <= self._ranges[index][1]
