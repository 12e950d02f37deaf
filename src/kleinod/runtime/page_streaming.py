"""Blocks of a mapped module that are in memory only while they compute.

After a block has run, its pages are let go (mapping.py), and while it runs, a thread has the next
block's read. So a model of any size needs the memory of two blocks, and as much of the system's own
cache as is free. Knows nothing about which model it is.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any

from torch import nn

from kleinod.weights.mapped_pages import Range, let_go, mapped_ranges, read_ahead


def stream(module: nn.Module) -> bool:
    """Let go of each block after its use from now on; whether anything of the module is mapped."""
    blocks = _blocks(module)
    ranges = [mapped_ranges(chain(block.parameters(), block.buffers())) for block in blocks]
    if not any(ranges):
        return False
    reader = _Reader(ranges)
    for index, block in enumerate(blocks):
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
        following = self._ranges[(index + 1) % len(self._ranges)]
        self._coming = self._pool.submit(read_ahead, following)

    def end(self, index: int) -> None:
        let_go(self._ranges[index])
