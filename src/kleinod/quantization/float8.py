"""Float8 weights: value = code * scale, with a scale for the matrix, for each row or each block.

Codes are E4M3 (no infinity, 448 at most) or E5M2. On the CPU two codes at a time are looked up in a
table of 65,536 pairs, which is exact for every code and ten times faster than torch's own
conversion (docs/log.md). Source: klein-facts B.2, B.3, B.6.
"""

from functools import cache

import torch
from torch import Tensor

from kleinod.quantization.stored import Rows, StoredWeight

FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
BLOCK = 128


def widen(codes: Tensor, out: Tensor) -> None:
    """The values of float8 codes (n, columns) into out, of the same shape in a wider dtype."""
    if codes.device.type != "cpu" or codes.numel() % 2:
        out.copy_(codes)
        return
    raw = codes.contiguous().view(torch.uint8)
    # a view of two bytes wants an even place in the file; a small copy has one
    raw = raw.clone() if raw.storage_offset() % 2 else raw
    pairs = raw.view(-1).view(torch.uint16).int()
    table = _pairs(codes.dtype, out.dtype)
    torch.index_select(table, 0, pairs, out=out.view(-1).view(table.dtype))


@cache
def _pairs(code: torch.dtype, wide: torch.dtype) -> Tensor:
    """The values of every two neighbouring codes, as one integer for both."""
    codes = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.uint8).view(code)
    both = torch.int64 if wide == torch.float32 else torch.int32
    # outside of inference mode: the table outlives the call that makes it
    with torch.inference_mode(mode=False):
        return codes.to(wide).view(both).clone()


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
        """Codes looked up, times the scale in float32."""
        widen(self.codes[rows].view(self.code_dtype), out)
        if len(self.scale) > 1:
            out.mul_(self.scale[rows])
        elif out.device.type == "cpu":
            out.mul_(float(self.scale))
        else:  # a number would have to be waited for
            out.mul_(self.scale)


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
        """Codes looked up, times the block's scale in float32."""
        codes = self.codes[rows].view(self.code_dtype)
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=codes.device)
        wide = out if out.dtype == torch.float32 else torch.empty_like(out, dtype=torch.float32)
        widen(codes, wide)
        scales = self.scale[rows // BLOCK].repeat_interleave(BLOCK, dim=1)
        wide.mul_(scales[:, : self.shape[1]])
        if wide is not out:
            out.copy_(wide)


def block_grid(shape: tuple[int, ...]) -> tuple[int, int]:
    """How many blocks cover a matrix, along rows and columns."""
    return -(-shape[0] // BLOCK), -(-shape[1] // BLOCK)
