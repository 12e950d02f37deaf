"""Float8 weights: value = code * scale, with a scale for the matrix, for each row or each block.

Codes are E4M3 (no infinity, 448 at most) or E5M2. On the CPU a code's bits are moved into those of
a wider float, whose exponent is then too small by a constant power of two, which the scale takes
up: exact, and ten to thirty times faster than torch's own conversion
(docs/log/2026-11-25-fp8-expansion.md).
Source: klein-facts B.2, B.3, B.6.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kleinod.quantization.stored import Rows, StoredWeight

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
BLOCK = 128


@dataclass(frozen=True)
class _Layout:
    """A float's fields: an integer of its width, bits of its fraction, bias of its exponent."""

    integer: torch.dtype
    fraction: int
    bias: int


_LAYOUTS = {
    torch.float8_e4m3fn: _Layout(torch.int8, 3, 7),
    torch.float8_e5m2: _Layout(torch.int8, 2, 15),
    torch.float16: _Layout(torch.int16, 10, 15),
    torch.bfloat16: _Layout(torch.int16, 7, 127),
    torch.float32: _Layout(torch.int32, 23, 127),
}
# the codes from here on, the sign aside, are NaN or infinite
_UNUSUAL = {torch.float8_e4m3fn: 0x7F, torch.float8_e5m2: 0x7C}


def widen(codes: Tensor, kind: torch.dtype, out: Tensor, scale: float = 1.0) -> None:
    """scale * the values of float8 codes (n, columns), given as bytes, into out of their shape."""
    if codes.device.type == "cuda":
        out.copy_(codes.view(kind)).mul_(scale)
    elif codes.device.type != "cpu" or _has_unusual(codes, kind):
        out.copy_(float8_values(codes, kind).mul_(scale))
    elif scale == 1 or scale >= 256 or out.dtype == torch.float16:
        # codes without a scale are small, and subnormal in bfloat16: twenty times slower there
        bits = torch.empty(codes.shape, dtype=torch.int16)
        wide = _moved(codes, kind, bits.view(torch.float16)).float()
        out.copy_(wide.mul_(scale * _lift(kind, torch.float16)))
    else:
        _moved(codes, kind, out).mul_(scale * _lift(kind, out.dtype))


def _moved(codes: Tensor, kind: torch.dtype, out: Tensor) -> Tensor:
    """Sign, exponent and fraction of the codes at their places in out, which is given back."""
    wide = _LAYOUTS[out.dtype]
    shift = wide.fraction - _LAYOUTS[kind].fraction
    # int8 is widened with its sign, which so stands in every higher place
    bits = out.view(wide.integer).copy_(codes.view(torch.int8))
    bits.bitwise_left_shift_(shift).bitwise_and_(torch.iinfo(wide.integer).min | 0x7F << shift)
    return out


def _lift(kind: torch.dtype, wide: torch.dtype) -> float:
    """What moved bits are too small by: the biases differ; subnormal numbers follow suit."""
    return 2.0 ** (_LAYOUTS[wide].bias - _LAYOUTS[kind].bias)


def _has_unusual(codes: Tensor, kind: torch.dtype) -> bool:
    """Whether any code is NaN or infinite: of either sign they are the largest in their order."""
    if not codes.numel():
        return False
    positive, negative = codes.view(torch.int8).amax(), codes.amax()
    return bool(positive >= _UNUSUAL[kind]) or bool(negative >= _UNUSUAL[kind] + 128)


def float8_values(codes: Tensor, kind: torch.dtype) -> Tensor:
    """The float32 values of codes, given as bytes: on any device, also one without float8."""
    values = _values(kind, codes.device)
    return torch.index_select(values, 0, codes.reshape(-1).int()).view(codes.shape)


@cache
def _values(kind: torch.dtype, device: torch.device) -> Tensor:
    # outside of inference mode: the table outlives the call that makes it
    with torch.inference_mode(mode=False):
        return torch.arange(256, dtype=torch.uint8).view(kind).float().to(device)


class Float8Weight(StoredWeight):
    """Codes (rows, columns) with one scale, or a scale per row.

    input_scale belongs to products with float8 activations; nothing here uses it.
    """

    codes: Tensor
    scale: Tensor
    input_scale: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, input_scale: Tensor | None = None) -> None:
        super().__init__((codes.shape[0], codes.shape[1]))
        assert scale.numel() in (1, codes.shape[0])
        self.code_dtype = codes.dtype
        # as bytes, which every operation knows
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("scale", scale.float().reshape(-1, 1))
        self.register_buffer("input_scale", input_scale)

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Codes widened, times the scale in float32."""
        codes = self.codes[rows]
        if out.device.type == "cpu" and len(self.scale) == 1:
            widen(codes, self.code_dtype, out, float(self.scale))
        else:  # a number would have to be waited for
            widen(codes, self.code_dtype, out)
            out.mul_(self.scale if len(self.scale) == 1 else self.scale[rows])


class BlockFloat8Weight(StoredWeight):
    """Codes (rows, columns) with a scale for each block of 128 x 128, the last ones cut."""

    codes: Tensor
    scale: Tensor

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        super().__init__((codes.shape[0], codes.shape[1]))
        assert tuple(scale.shape) == block_grid(self.shape)
        self.code_dtype = codes.dtype
        self.register_buffer("codes", codes.view(torch.uint8))
        self.register_buffer("scale", scale.float())

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Codes widened, times the block's scale in float32."""
        codes = self.codes[rows]
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=codes.device)
        wide = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        widen(codes, self.code_dtype, wide)
        scales = self.scale[rows // BLOCK].repeat_interleave(BLOCK, dim=1)
        wide.mul_(scales[:, : self.shape[1]])
        if wide is not out:
            out.copy_(wide)


def block_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks cover a matrix, along rows and columns."""
    return -(-shape[0] // BLOCK), -(-shape[1] // BLOCK)
