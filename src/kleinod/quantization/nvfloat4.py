"""NVFP4 weights: two E2M1 values to a byte, a float8 scale for 16 of them, one for the matrix.

value = E2M1 * block_scale * scale_2 [* pre_quant_scale of its column]. The high nibble comes first.
Block scales lie in tiles of 128 rows x 4 columns, swizzled for the tensor cores; rows and columns
may be padded to multiples of 16. Source: klein-facts B.4.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from kleinod.quantization.float8 import float8_values
from kleinod.quantization.stored import Rows, StoredWeight

GROUP = 16
_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def scale_grid(rows: int, columns: int) -> tuple[int, int]:
    """Shape of the stored block scales of a matrix."""
    return -(-rows // 128) * 128, -(-(columns // GROUP) // 4) * 4


def scale_places(rows: Tensor, num_groups: int, width: int) -> Tensor:
    """Where the scales (n, num_groups) of some rows lie in a swizzled grid of so many columns."""
    rows, groups = rows[:, None], torch.arange(num_groups, device=rows.device)
    tile = rows // 128 * (width // 4) + groups // 4
    return tile * 512 + rows % 32 * 16 + rows % 128 // 32 * 4 + groups % 4


@dataclass(frozen=True)
class NVFloat4Scales:
    """Of 16 numbers (float8, as they lie in the file), of the matrix, and of its columns.

    input_scale belongs to products with four-bit activations; nothing here uses it.
    """

    block: Tensor
    whole: Tensor
    columns: Tensor | None = None
    input: Tensor | None = None


class NVFloat4Weight(StoredWeight):
    """Bytes (rows, columns / 2), padded; shape: of the matrix without the padding."""

    codes: Tensor
    block_scale: Tensor
    scale_2: Tensor
    pre_quant_scale: Tensor | None
    input_scale: Tensor | None

    def __init__(
        self, codes: Tensor, scales: NVFloat4Scales, shape: tuple[int, int] | None = None
    ) -> None:
        rows, columns = codes.shape[0], 2 * codes.shape[1]
        super().__init__(shape or (rows, columns))
        assert tuple(scales.block.shape) == scale_grid(rows, columns)
        self.register_buffer("codes", codes)
        # as bytes, which every operation knows
        self.register_buffer("block_scale", scales.block.view(torch.uint8))
        self.register_buffer("scale_2", scales.whole.float().reshape(()))
        self.register_buffer("pre_quant_scale", scales.columns)
        self.register_buffer("input_scale", scales.input)

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Values looked up, times the scales in float32."""
        codes = self.codes[rows]
        if isinstance(rows, slice):
            rows = torch.arange(rows.start, rows.stop, device=codes.device)
        places = scale_places(rows, codes.shape[1] * 2 // GROUP, self.block_scale.shape[1])
        scales = float8_values(self.block_scale.view(-1)[places], torch.float8_e4m3fn)[:, :, None]
        pairs = torch.index_select(_values(codes.device), 0, codes.reshape(-1).int())
        groups = pairs.view(torch.float32).view(len(codes), -1, GROUP)
        wide = groups.mul_(scales * self.scale_2).view(len(codes), -1)[:, : self.shape[1]]
        if self.pre_quant_scale is not None:
            wide = wide * self.pre_quant_scale.float()[: self.shape[1]]
        out.copy_(wide)

    def fitted(self, shape: tuple[int, ...]) -> StoredWeight:
        """Without the padding, if that is all that lies between."""
        padded = tuple(-(-side // GROUP) * GROUP for side in shape)
        if tuple(shape) == tuple(self.shape) or padded != tuple(self.shape) or len(shape) != 2:
            return self
        scales = NVFloat4Scales(
            self.block_scale, self.scale_2, self.pre_quant_scale, self.input_scale
        )
        return NVFloat4Weight(self.codes, scales, (shape[0], shape[1]))


@cache
def _values(device: torch.device) -> Tensor:
    """Both float32 values of each byte, as one integer; the high nibble is the first of them."""
    with torch.inference_mode(mode=False):
        half = torch.tensor(_MAGNITUDES, device=device)
        values = torch.cat((half, -half))
        codes = torch.arange(256, device=device)
        return torch.stack((values[codes >> 4], values[codes & 15]), dim=-1).view(torch.int64)[:, 0]
