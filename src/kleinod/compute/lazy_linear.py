"""The formulas of compute/ops.py on the CPU, a piece at a time, so that it stays in the cache.

A pass over a whole tensor runs at the speed of memory, and a block has thirty of them. So rows are
normalised, turned and scaled a few at a time. Every number is computed in the same order and
rounded at the same places: with PyTorch's products the result has the same bits
(tests/test_in_cache.py), for widths that are a multiple of 32, as all are: what is left of a row is
computed by other instructions. Our own products (kernels/results.h) may end in these formulas,
rounded at the same places, where a few sums have another order.

oneDNN's matrix products stay whole: how it sums a product's terms depends on its shape, and a
product of some of the columns differs in the last bit. Where that is not so (int8, whose sums are
exact, and our own code's, which have one order) a range of columns is computed and used before the
next. Inference only.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute import workspace
from kleinod.compute.matmul import tiled

# of bfloat16 and its float32 copy, 1.5 MB: the second-level caches of two cores hold it
_NUMBERS_AT_ONCE = 2**18
# wide enough for a matrix product, and all its rows still in the cache
_COLUMNS_AT_ONCE = 1536


@runtime_checkable
class UsedUp(Protocol):
    """Columns of a product that end in a formula of this module, and are written nowhere.

    A few of its numbers have another last bit. Columns are counted from the first of the product;
    every method says by None or False that it does not take the case.
    """

    def turned(
        self, span: tuple[int, int], scale: Tensor, *, turns: Tensor, eps: float
    ) -> Tensor | None:
        """`turned` of columns from start to stop, (b, l, n, d)."""

    def swiglu(self, start: int, value: "UsedUp", value_start: int, out: Tensor) -> bool:
        """`swiglu` of as many columns as out (b, l, dim) has, written there."""

    def gated_sum(self, x: Tensor, gate: Tensor | None) -> Tensor | None:
        """`gated_sum` of all columns."""


@dataclass(frozen=True)
class Columns:
    """A linear's output for `of` (b, l, …): whole, or computed when some columns are asked for.

    `used_up` is what computes them where it can also do more.
    """

    of: Tensor
    compute: Callable[[int, int], Tensor]
    is_whole: bool
    first: int = 0
    used_up: UsedUp | None = None

    def __call__(self, start: int, stop: int) -> Tensor:
        """Columns from start to stop, counted from the first; (b, l, stop - start)."""
        return self.compute(self.first + start, self.first + stop)

    def behind(self, count: int) -> "Columns":
        """The same without the first columns."""
        return replace(self, first=self.first + count)


def columns(linear: nn.Module, x: Tensor) -> Columns:
    """The columns of linear(x)."""
    own = getattr(linear, "columns", None)
    if own is not None:
        some = own(x)
        more = some if isinstance(some, UsedUp) else None
        return Columns(x, some, is_whole=False, used_up=more)
    some = tiled(linear, x)
    if some is not None:
        return Columns(x, some, is_whole=False, used_up=some)
    whole = product(linear, x)
    return Columns(x, lambda start, stop: whole[..., start:stop], is_whole=True)


def modulated_columns(
    linear: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Columns:
    """The columns of linear(modulated(x)); `of` has the shape that matters."""
    own = getattr(linear, "modulated_columns", None)
    some = None if own is None else own(x, shift, 1 + scale, eps)
    if some is not None:
        return Columns(x, some, is_whole=False, used_up=some)
    return columns(linear, modulated(x, shift, scale, eps))


def product(linear: nn.Module, x: Tensor) -> Tensor:
    """linear(x) as a product of two matrices.

    For a part of a longer stream torch would multiply batch by batch and copy the weight to do so.
    """
    return workspace.product(linear, x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _rows(x: Tensor) -> Iterator[slice]:
    """Ranges of x's second dimension (b, l, …)."""
    length = x.shape[1]
    step = max(1, _NUMBERS_AT_ONCE * length // max(1, x.numel()))
    return (slice(start, min(start + step, length)) for start in range(0, length, step))


def _tiles(column: Columns, out: Tensor) -> Iterator[tuple[slice, slice]]:
    """Rows and columns of out (b, l, dim) that are computed at once."""
    if column.is_whole:
        yield from ((rows, slice(0, out.shape[-1])) for rows in _rows(out))
        return
    for start in range(0, out.shape[-1], _COLUMNS_AT_ONCE):
        yield slice(None), slice(start, min(start + _COLUMNS_AT_ONCE, out.shape[-1]))


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm, times 1 + scale, plus shift."""
    out, scale = workspace.empty(x.shape, x.dtype), 1 + scale
    for rows in _rows(x):
        part = F.layer_norm(x[:, rows], x.shape[-1:], eps=eps)
        torch.add(part.mul_(scale), shift, out=out[:, rows])
    return out


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """In float32, rounded to scale's dtype, times scale."""
    flat = x.reshape(1, -1, x.shape[-1])
    out = workspace.empty(flat.shape, scale.dtype)
    for rows in _rows(flat):
        torch.mul(_normalised(flat[:, rows], eps).to(scale.dtype), scale, out=out[:, rows])
    return out.view(x.shape)


def _normalised(x: Tensor, eps: float) -> Tensor:
    """A new float32 tensor."""
    wide = x.to(torch.float32, copy=True)
    return wide.mul_((wide * wide).mean(-1, keepdim=True).add_(eps).rsqrt_())


def turned(columns: Columns, count: int, scale: Tensor, *, eps: float, turns: Tensor) -> Tensor:
    """rms_norm, then adjacent pairs times the complex turns (l, d/2), of `count` columns.

    (b, l, n, d), d the length of the scale.
    """
    if columns.used_up is not None:
        span = columns.first, columns.first + count
        made = columns.used_up.turned(span, scale, turns=turns, eps=eps)
        if made is not None:
            return made
    x = columns(0, count).unflatten(-1, (-1, len(scale)))
    out = workspace.empty(x.shape, scale.dtype)
    for rows in _rows(x):
        part = _normalised(x[:, rows], eps).to(scale.dtype).mul_(scale).float()
        pairs = torch.view_as_complex(part.unflatten(-1, (-1, 2)))
        out[:, rows] = torch.view_as_real(pairs.mul_(turns[rows, None])).flatten(-2)
    return out


def swiglu(gate: Columns, value: Columns, dim: int, beside: Tensor | None) -> Tensor:
    """SiLU(gate) * value of dim columns, behind those of another tensor."""
    width = 0 if beside is None else beside.shape[-1]
    joined = workspace.empty((*gate.of.shape[:-1], width + dim), gate.of.dtype)
    if beside is not None:
        joined[..., :width] = beside
    out = joined[..., width:]
    if gate.used_up is not None and value.used_up is not None:
        if gate.used_up.swiglu(gate.first, value.used_up, value.first, out):
            return joined
    for rows, some in _tiles(gate, out):
        left, right = gate(some.start, some.stop), value(some.start, some.stop)
        # in place where nobody else will read it, and not where it would be written far away
        activated = F.silu(left[:, rows], inplace=not gate.is_whole)
        torch.mul(activated, right[:, rows], out=out[:, rows, some])
    return joined


def gated_sum(x: Tensor, gate: Tensor | None, y: Columns) -> Tensor:
    """x + gate * y, or without a gate x + y; y is used up."""
    if y.used_up is not None:
        made = y.used_up.gated_sum(x, gate)
        if made is not None:
            return made
    out = torch.empty_like(x)
    for rows, some in _tiles(y, out):
        part = y(some.start, some.stop)[:, rows]
        part = part if gate is None else part.mul_(gate[..., some])
        torch.add(x[:, rows, some], part, out=out[:, rows, some])
    return out
