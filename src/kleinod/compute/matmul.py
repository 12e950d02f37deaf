"""How a device multiplies: in which numbers, and by whose code.

Many laptops' processors (AVX2) have no products of bfloat16 numbers, and PyTorch's own loop for
them is slower than float32, five times for a matrix, hundreds of times for a convolution. There
weights stay bfloat16 in memory and products are computed in float32, a piece of a weight at a time,
and rounded once: as exact as those of a processor that has them, whose sums are float32 too.

Where the processor allows it, bfloat16 rows are multiplied by kernels/products.c, faster than by
PyTorch, if no gradients are wanted: the same sums of the same terms, rounded once, added in another
order.
"""

import threading
import weakref
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute.graph_constants import constant_in_graphs
from kleinod.kernels import native

# of fewer rows a product is a pass over the weight
_MIN_ROWS = 16


@constant_in_graphs
def has_bfloat16() -> bool:
    """Whether this processor's products of bfloat16 numbers are those of oneDNN."""
    return _asked()


@cache
def _asked() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # a PyTorch that was built without oneDNN does not know the question
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What numbers of a dtype are multiplied as."""
    is_slow = dtype == torch.bfloat16 and device.type == "cpu" and not has_bfloat16()
    return torch.float32 if is_slow else dtype


def told(dtype: torch.dtype, device: torch.device) -> str | None:
    """What multiplies numbers of a dtype where that is not PyTorch in the same numbers."""
    numbers = product_dtype(dtype, device)
    if numbers != dtype:
        return str(numbers).removeprefix("torch.")
    is_tiled = dtype == torch.bfloat16 and device.type == "cpu"
    return native.kind() if is_tiled else None


def weights(linear: nn.Module) -> tuple[Tensor, ...]:
    """The matrices of a linear, one below the other, if it is nothing but them; else none."""
    if linear._forward_hooks or linear._forward_pre_hooks:
        return ()
    if type(linear) is nn.Linear and linear.bias is None:
        return (linear.weight,)
    return tuple(linear.parts) if isinstance(linear, JoinedLinear) else ()


def tiled(linear: nn.Module, x: Tensor) -> "TiledColumns | None":
    """What computes columns of linear(x) by kernels/products.c, or None where it does not.

    Every column has the same bits however many are computed.
    """
    if not is_tiled(x):
        return None
    matrices = weights(linear)
    if not matrices or not all(_fills_tiles(matrix) for matrix in matrices):
        return None
    return TiledColumns(matrices, x.shape[:-1], shared(x, native.tiled))


def piecewise(x: Tensor) -> Callable[[Tensor, Tensor], None]:
    """A function that writes x (m, k) times a matrix (n, k) to out (m, n), for many matrices."""
    tiles = native.tiled(x) if is_tiled(x) else None

    def multiply(matrix: Tensor, out: Tensor) -> None:
        if tiles is not None and _fills_tiles(matrix):
            native.product(tiles, matrix, out)
        else:
            out.copy_(F.linear(x, matrix))

    return multiply


def is_tiled(x: Tensor) -> bool:
    """Whether our own code multiplies x's rows, where the weight allows it."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.dtype != torch.bfloat16:
        return False
    is_plain = not (torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"))
    has_rows = x.numel() >= _MIN_ROWS * x.shape[-1]
    return is_plain and has_rows and x.shape[-1] % native.ROWS == 0 and native.is_usable()


def _fills_tiles(part: Tensor) -> bool:
    is_plain = part.dtype == torch.bfloat16 and part.device.type == "cpu" and part.is_contiguous()
    return is_plain and native.takes(len(part), part.shape[1], part.itemsize)


class TiledColumns:
    """Columns of our own product of x (shape, k); in_cache.UsedUp says what may become of them.

    That takes bfloat16 numbers, a shape (b, l) and whole panels of 32 columns of one weight.
    `tiles` is what is multiplied, once for all columns that will be asked for; the weights (n, k)
    lie one below the other.
    """

    def __init__(
        self, parts: tuple[native.Weight, ...], shape: torch.Size, tiles: native.Tiles
    ) -> None:
        self.parts, self.shape, self.tiles = parts, shape, tiles

    def whole(self) -> Tensor:
        """All columns (…, n)."""
        return self(0, sum(map(len, self.parts)))

    def __call__(self, start: int, stop: int) -> Tensor:
        """Columns from start to stop (…, stop - start)."""
        low, high = native.whole_panels(start, stop)
        out = torch.empty(self.tiles.num_rows, high - low, dtype=self.tiles.dtype)
        offset = 0
        for part in self.parts:
            first, end = max(low, offset), min(high, offset + len(part))
            if first < end:
                rows = part[first - offset : end - offset]
                native.product(self.tiles, rows, out[:, first - low : end - low])
            offset += len(part)
        return out[:, start - low : stop - low].view(*self.shape, stop - start)

    def turned(
        self, span: tuple[int, int], scale: Tensor, *, turns: Tensor, eps: float
    ) -> Tensor | None:
        """Heads (b, l, n, d), normalised and turned."""
        weight = self._rows(*span)
        if weight is None or len(scale) % native.ROWS or len(scale) > native.MOST_HEAD:
            return None
        made = native.turned(self.tiles, weight, scale, turns=turns, eps=eps)
        return made.view(*self.shape, -1, len(scale))

    def swiglu(self, start: int, value: object, value_start: int, out: Tensor) -> bool:
        """SiLU(gate) * value to out (b, l, dim)."""
        dim, is_flat = out.shape[-1], len(out) == 1 or out.stride(0) == out.stride(1) * out.shape[1]
        if not isinstance(value, TiledColumns) or value.tiles is not self.tiles or not is_flat:
            return False
        weights = self._rows(start, start + dim), value._rows(value_start, value_start + dim)
        if weights[0] is None or weights[1] is None:
            return False
        native.swiglu(self.tiles, weights[0], weights[1], out.view(-1, dim))
        return True

    def gated_sum(self, x: Tensor, gate: Tensor | None) -> Tensor | None:
        """x + gate * y, (b, l, n)."""
        assert x.shape[-1] == sum(map(len, self.parts))
        weight = self._rows(0, x.shape[-1])
        if weight is None or x.dtype != self.tiles.dtype:
            return None
        return native.gated_sum(self.tiles, weight, x, gate)

    def _rows(self, start: int, stop: int) -> native.Weight | None:
        """What makes these columns, if they may be used up."""
        is_plain = self.tiles.dtype == torch.bfloat16 and len(self.shape) == 2
        if not is_plain or start % native.ROWS or stop % native.ROWS:
            return None
        offset = 0
        for part in self.parts:
            if offset <= start and stop <= offset + len(part):
                return part[start - offset : stop - offset]
            offset += len(part)
        return None


class _Last(threading.local):
    """What was made of a tensor last, and how, while that lives."""

    of: "weakref.ref[Tensor] | None" = None
    by: Callable[[Tensor], Any] | None = None
    made: Any = None


_last = _Last()
Made = TypeVar("Made")


def shared(x: Tensor, make: Callable[[Tensor], Made]) -> Made:
    """make(rows of x), once for all layers that read the same tensor one after the other.

    Nobody may write to x in between.
    """
    if _last.of is None or _last.of() is not x or _last.by is not make:
        _last.made, _last.by = make(x.reshape(-1, x.shape[-1])), make
        _last.of = weakref.ref(x, _forget)
    made: Made = _last.made
    return made


def _forget(reference: "weakref.ref[Tensor]") -> None:
    if _last.of is reference:
        _last.of = _last.by = _last.made = None


class JoinedLinear(nn.Module):
    """A linear whose weight lies in several pieces: stands in for nn.Linear without a bias.

    So q, k and v of a mapped file need not be copied into one matrix.
    """

    def __init__(self, parts: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part, requires_grad=False) for part in parts)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, sum of the pieces' rows)."""
        return torch.cat([F.linear(x, part) for part in self.parts], dim=-1)
