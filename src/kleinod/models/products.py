"""How a device multiplies: in which numbers, and by whose code.

Many laptops' processors (AVX2) have no products of bfloat16 numbers, and PyTorch's own loop for
them is slower than float32, five times for a matrix, hundreds of times for a convolution. There
weights stay bfloat16 in memory and products are computed in float32, a piece of a weight at a time,
and rounded once: as exact as those of a processor that has them, whose sums are float32 too.

Where the processor allows it, bfloat16 rows are multiplied by kernels/products.c, faster than by
PyTorch, if no gradients are wanted: the same sums of the same terms, rounded once, added in another
order.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.kernels import native

# of fewer rows a product is a pass over the weight
_MIN_ROWS = 16


@torch.compiler.assume_constant_result
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
    return TiledColumns(matrices, x)


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
    """x (…, k) in tiles, once for all columns of its product that will be asked for."""

    def __init__(self, matrices: tuple[Tensor, ...], x: Tensor) -> None:
        self.matrices, self.shape = matrices, x.shape[:-1]
        self.tiles = native.tiled(x.reshape(-1, x.shape[-1]))

    def whole(self) -> Tensor:
        """All columns (…, n)."""
        return self(0, sum(map(len, self.matrices)))

    def __call__(self, start: int, stop: int) -> Tensor:
        """Columns from start to stop (…, stop - start)."""
        low, high = native.whole_panels(start, stop)
        out = torch.empty(self.tiles.num_rows, high - low, dtype=torch.bfloat16)
        offset = 0
        for part in self.matrices:
            first, end = max(low, offset), min(high, offset + len(part))
            if first < end:
                rows = part[first - offset : end - offset]
                native.product(self.tiles, rows, out[:, first - low : end - low])
            offset += len(part)
        return out[:, start - low : stop - low].view(*self.shape, stop - start)


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
