"""A matrix in one of GGUF's block formats; a row is a whole number of blocks."""

from torch import Tensor

from kleinod.quantization.gguf_blocks import BlockFormat
from kleinod.quantization.stored import Rows, StoredWeight


class GGUFWeight(StoredWeight):
    """Raw bytes (rows, blocks in a row * bytes of a block), uint8."""

    raw: Tensor

    def __init__(self, raw: Tensor, form: BlockFormat) -> None:
        assert raw.shape[1] % form.num_bytes == 0
        super().__init__((raw.shape[0], raw.shape[1] // form.num_bytes * form.num_numbers))
        self.register_buffer("raw", raw)
        self.form = form

    def fill(self, out: Tensor, rows: Rows) -> None:
        """Expand in float32."""
        blocks = self.raw[rows].reshape(-1, self.form.num_bytes)
        out.copy_(self.form.expand(blocks).view(out.shape))
