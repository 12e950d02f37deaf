"""Linears in int8: weights with a scale per output channel, activations with one per token.

y = (x_codes @ w_codes^T) * token_scale * channel_scale, with codes = round(values / scale) and
scale = largest magnitude / 127. The sums are whole numbers below 2^31: exact, whatever their order.
kernels/products.c multiplies them, oneDNN (int8_packing.py) where that is not there and the machine
has instructions for it; elsewhere the codes are expanded and multiplied as floats, which saves
memory and no time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute.matmul import TiledColumns, product_dtype, shared
from kleinod.kernels import native
from kleinod.quantization.int8_packing import PackedRows, as_read, is_usable
from kleinod.quantization.stored import StoredWeight, Weight

ONEDNN, EXPANDED = "onednn int8", "expanded int8"
LARGEST = 127.0
# packed together: wide enough for a matrix product, and its result stays in the cache
PACKED_AT_ONCE = 1536
_EXPANDED_AT_ONCE = 512
# quantised at a time: the numbers, their magnitudes and a float32 copy stay in the cache
_NUMBERS_AT_ONCE = 2**18


def kernel(device_type: str) -> str:
    """What multiplies int8 matrices on a device, where their sizes allow it."""
    is_tiled = device_type == "cpu" and native.is_usable()
    return f"{native.kind()} int8" if is_tiled else _without_tiles(device_type)


def _without_tiles(device_type: str) -> str:
    return ONEDNN if device_type == "cpu" and is_usable() else EXPANDED


@dataclass(frozen=True)
class Int8Rows:
    """Codes (rows, columns), int8, and the scale (rows, 1), float32, of each row."""

    codes: Tensor
    scale: Tensor


def quantized(x: Tensor) -> Int8Rows:
    """Rows of x (rows, columns) as codes; a row of zeros has the scale 1.

    A row that holds NaN or infinity has such a scale, so that it does not pass for numbers.
    """
    codes = torch.empty(x.shape, dtype=torch.int8, device=x.device)
    scale = torch.empty(len(x), 1, device=x.device)
    step = max(1, _NUMBERS_AT_ONCE // x.shape[1]) if x.device.type == "cpu" else len(x)
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        largest = _magnitude(x[rows])
        scale[rows] = torch.where(largest == 0, 1.0, largest / LARGEST)
        codes[rows] = x[rows].to(torch.float32, copy=True).div_(scale[rows]).round_()
    return Int8Rows(codes, scale)


def _magnitude(x: Tensor) -> Tensor:
    """Largest magnitude of each row, (rows, 1), float32."""
    if x.dtype != torch.bfloat16 or not x.is_contiguous():
        return x.abs().amax(-1, keepdim=True).float()
    # without its sign bfloat16 has the order of its bits, and whole numbers compare faster
    bits = x.view(torch.int16) & 0x7FFF
    return bits.amax(-1, keepdim=True).view(torch.bfloat16).float()


class Int8Linear(nn.Module):
    """Stands in for nn.Linear without a bias; its weight is one matrix or several in a row."""

    channel_scale: Tensor
    codes: Tensor | None  # of our own code in tiles, else (out, in); oneDNN's are in packs

    def __init__(self, parts: tuple[Weight, ...]) -> None:
        super().__init__()
        device = parts[0].device
        self.in_features = parts[0].shape[1]
        self.out_features = sum(part.shape[0] for part in parts)
        self.kernel = kernel(device.type)
        self.is_tiled = self.kernel not in (ONEDNN, EXPANDED)
        if self.is_tiled and not native.takes(self.out_features, self.in_features, 1):
            self.kernel, self.is_tiled = _without_tiles(device.type), False
        made = [quantized(rows) for rows in _pieces(parts)]
        self.register_buffer("channel_scale", torch.cat([rows.scale for rows in made])[:, 0])
        self._packs: list[PackedRows] = []
        codes = [rows.codes for rows in made]
        if self.kernel == ONEDNN:
            self._packs = [PackedRows(rows.codes, rows.scale[:, 0]) for rows in made]
        elif self.is_tiled:
            codes = [native.int8_tiles(rows) for rows in codes]
        self.register_buffer("codes", None if self._packs else torch.cat(codes))

    @property
    def is_finite(self) -> bool:
        """Whether all weights are: the scale of a row that is not tells."""
        return bool(torch.isfinite(self.channel_scale).all())

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out)."""
        return self.columns(x)(0, self.out_features)

    def columns(self, x: Tensor) -> Callable[[int, int], Tensor]:
        """A function of start and stop that computes those columns of the output."""
        if self.is_tiled:
            return TiledColumns((self._weight(),), x.shape[:-1], shared(x, native.quantized))
        compute = self._packed if self.kernel == ONEDNN else self._expanded
        return lambda start, stop: compute(x, start, stop)

    def modulated_columns(
        self, x: Tensor, shift: Tensor, factor: Tensor, eps: float
    ) -> TiledColumns | None:
        """Columns of LayerNorm(x) * factor + shift, x (b, l, in); None if that is no part of it."""
        if not self.is_tiled or x.dtype != torch.bfloat16:
            return None
        rows, length = x.reshape(-1, x.shape[-1]), x.shape[1]
        tiles = native.modulated(rows, factor, shift, length=length, eps=eps)
        return TiledColumns((self._weight(),), x.shape[:-1], tiles)

    def _weight(self) -> native.Int8Weight:
        assert self.codes is not None
        return native.Int8Weight(self.codes, self.channel_scale)

    def _packed(self, x: Tensor, start: int, stop: int) -> Tensor:
        tokens = shared(x, _read)
        token_scale = tokens.scale.to(x.dtype)
        first = start // PACKED_AT_ONCE
        if (start, stop) == self._span(first):
            whole = self._packs[first].product(tokens.codes, x.dtype)
            return whole.mul_(token_scale).view(*x.shape[:-1], -1)
        out = x.new_empty(len(tokens.codes), stop - start)
        for index in range(first, -(-stop // PACKED_AT_ONCE)):
            offset, end = self._span(index)
            product = self._packs[index].product(tokens.codes, x.dtype)
            low, high = max(start, offset), min(stop, end)
            part = product[:, low - offset : high - offset]
            torch.mul(part, token_scale, out=out[:, low - start : high - start])
        return out.view(*x.shape[:-1], stop - start)

    def _span(self, index: int) -> tuple[int, int]:
        """The columns of a pack."""
        start = index * PACKED_AT_ONCE
        return start, min(start + PACKED_AT_ONCE, self.out_features)

    def _expanded(self, x: Tensor, start: int, stop: int) -> Tensor:
        assert self.codes is not None
        wide, parts = x.to(product_dtype(x.dtype, x.device)), []
        for first in range(start, stop, _EXPANDED_AT_ONCE):
            rows = slice(first, min(first + _EXPANDED_AT_ONCE, stop))
            weight = self.codes[rows] * self.channel_scale[rows, None]
            parts.append(F.linear(wide, weight.to(wide.dtype)).to(x.dtype))
        return torch.cat(parts, dim=-1)


def _pieces(parts: tuple[Weight, ...]) -> Iterator[Tensor]:
    """The rows of all parts, so many at a time that they are packed together."""
    count = sum(part.shape[0] for part in parts)
    for start in range(0, count, PACKED_AT_ONCE):
        stop, first, found = min(start + PACKED_AT_ONCE, count), 0, []
        for part in parts:
            low, high = max(start - first, 0), min(stop - first, part.shape[0])
            if low < high:
                found.append(_dense(part, slice(low, high)))
            first += part.shape[0]
        yield found[0] if len(found) == 1 else torch.cat([piece.float() for piece in found])


def _dense(part: Weight, rows: slice) -> Tensor:
    return part.block(torch.float32, rows) if isinstance(part, StoredWeight) else part[rows]


def _read(x: Tensor) -> Int8Rows:
    """Rows of x with codes as oneDNN's product takes them."""
    rows = quantized(x)
    return replace(rows, codes=as_read(rows.codes))
