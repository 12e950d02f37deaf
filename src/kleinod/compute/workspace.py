"""Memory that the blocks of a pass on the CPU write one after the other.

What a block makes and forgets, 100 MB at 4B size, would come fresh from the system each time, and
to have its pages cleared takes up to a tenth of the block. So within `kept` one piece is cut
up anew for every block; it grows to what a block needs, and is let go with the pass.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
from torch import Tensor, nn

from kleinod.compute.matmul import tiled, weights

# the alignment of torch's own tensors
_ALIGNMENT = 64


class _Memory(threading.local):
    """One pass's: no piece outside of `kept`; `wanted` counts what found no room too."""

    piece: Tensor | None = None
    wanted = 0


_memory = _Memory()


@contextmanager
def kept(is_on: bool) -> Iterator[None]:
    """A pass whose blocks share their memory, if it is on; every block starts with `again`."""
    if not is_on:
        yield
        return
    outer = _memory.piece, _memory.wanted
    _memory.piece, _memory.wanted = torch.empty(0, dtype=torch.uint8), 0
    try:
        yield
    finally:
        _memory.piece, _memory.wanted = outer


def again() -> None:
    """A block begins: what `empty` gave to the one before is written anew."""
    if _memory.piece is not None and _memory.wanted > len(_memory.piece):
        _memory.piece = torch.empty(_memory.wanted, dtype=torch.uint8)
    _memory.wanted = 0


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor on the CPU to write to; within `kept` it lasts until the next `again`."""
    if not _is_on():
        return torch.empty(shape, dtype=dtype)
    assert _memory.piece is not None
    size = prod(shape) * dtype.itemsize
    start = _memory.wanted
    _memory.wanted += -(-size // _ALIGNMENT) * _ALIGNMENT
    if start + size > len(_memory.piece):
        return torch.empty(shape, dtype=dtype)
    return _memory.piece[start : start + size].view(dtype).view(shape)


def product(linear: nn.Module, x: Tensor) -> Tensor:
    """linear(x) of x (l, in), in memory from `empty` where it is torch's own and nothing more."""
    columns = tiled(linear, x)
    if columns is not None:
        return columns.whole()
    matrices = weights(linear) if _is_on() else ()
    if len(matrices) != 1:
        result: Tensor = linear(x)
        return result
    (weight,) = matrices
    return torch.mm(x, weight.t(), out=empty((len(x), len(weight)), x.dtype))


def _is_on() -> bool:
    # a compiled graph plans its own memory, and autocast has its own idea of a product
    return not (
        _memory.piece is None or torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu")
    )
