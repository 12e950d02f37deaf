"""The block formats of GGUF whose numbers are looked up: IQ, TQ and the four-bit floats.

    number = d * scale of its group * entry of a table (grid of 4 or 8 numbers) * signs

As in gguf_blocks.py each function takes blocks (n, bytes) of uint8 and gives (n, numbers) in
float32, on any device. The grids and tables are the gguf package's own; tests compare each format
with that package, bit for bit.
"""

from functools import cache

import gguf.quants
import torch
from torch import Tensor

from kleinod.quantization.gguf_blocks import BlockFormat

_GROUPS_OF_SIGNS = (0, 7, 14, 21)
_HALF = (0, 4)


@cache
def _grid(name: str, device: torch.device) -> Tensor:
    """Rows of 4 or 8 numbers."""
    quant = getattr(gguf.quants, name)
    quant.init_grid()
    with torch.inference_mode(mode=False):
        return torch.from_numpy(quant.grid[0, 0].copy()).to(device)


@cache
def _sign_table(device: torch.device) -> Tensor:
    """The 8 signs, as factors, of each number of 7 bits; the eighth makes their count even."""
    with torch.inference_mode(mode=False):
        bits = torch.frombuffer(bytearray(gguf.quants.IQ2_XXS.ksigns), dtype=torch.uint8)
        return _signs(bits).to(device)


@cache
def _table(values: tuple[int, ...], device: torch.device) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.tensor(values, dtype=torch.float32, device=device)


def _signs(bits: Tensor) -> Tensor:
    """A set bit is a minus: (…) bytes to (…, 8) factors, the lowest bit first."""
    return 1.0 - 2.0 * torch.stack([(bits >> shift) & 1 for shift in range(8)], dim=-1)


def _halves(blocks: Tensor, start: int) -> Tensor:
    """The float16 number of each block, (n, 1)."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _words(raw: Tensor, num_bytes: int) -> Tensor:
    """Little-endian numbers of so many bytes, as int64 (torch shifts no unsigned ones)."""
    parts = raw.reshape(len(raw), -1, num_bytes).long()
    return sum(
        (parts[..., i] << (8 * i) for i in range(num_bytes)), torch.zeros_like(parts[..., 0])
    )


def _fields(words: Tensor, shifts: tuple[int, ...], mask: int) -> Tensor:
    """(n, groups) to (n, groups * shifts): the bits under the mask at each shift."""
    return torch.stack([(words >> shift) & mask for shift in shifts], dim=-1).flatten(1)


def _rows(table: Tensor, indices: Tensor) -> Tensor:
    """Rows (or numbers) of a table: several times as fast as indexing it."""
    found = torch.index_select(table, 0, indices.reshape(-1).int())
    return found.view(*indices.shape, *table.shape[1:])


def _looked_up(name: str, indices: Tensor, factors: Tensor, signs: Tensor) -> Tensor:
    """Rows of a grid times the factor of each group, times signs; in this order, as gguf has it."""
    grid = _rows(_grid(name, indices.device), indices)
    groups = grid.view(len(grid), factors.shape[1], -1)
    return groups.mul_(factors[:, :, None]).mul_(signs.view(groups.shape)).flatten(1)


def _iq2_xxs(blocks: Tensor) -> Tensor:
    pairs = _words(blocks[:, 2:], 4).view(len(blocks), -1, 2)
    factors = _halves(blocks, 0) * (0.5 + (pairs[..., 1] >> 28).float()) * 0.25
    indices = _fields(pairs[..., 0], (0, 8, 16, 24), 255)
    signs = _rows(_sign_table(blocks.device), _fields(pairs[..., 1], _GROUPS_OF_SIGNS, 127))
    return _looked_up("IQ2_XXS", indices, factors, signs)


def _iq2_xs(blocks: Tensor) -> Tensor:
    codes = _words(blocks[:, 2:66], 2)
    scales = _fields(blocks[:, 66:], _HALF, 15)
    factors = _halves(blocks, 0) * (0.5 + scales.float()) * 0.25
    signs = _rows(_sign_table(blocks.device), codes >> 9)
    return _looked_up("IQ2_XS", codes & 511, factors, signs)


def _iq2_s(blocks: Tensor) -> Tensor:
    scales = _fields(blocks[:, 74:], _HALF, 15)
    factors = _halves(blocks, 0) * (0.5 + scales.float()) * 0.25
    indices = blocks[:, 2:34].long() | _fields(blocks[:, 66:74], (0, 2, 4, 6), 3).long() << 8
    return _looked_up("IQ2_S", indices, factors, _signs(blocks[:, 34:66]))


def _iq3_xxs(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 66:], 4)
    factors = _halves(blocks, 0) * (0.5 + (words >> 28).float()) * 0.5
    signs = _rows(_sign_table(blocks.device), _fields(words, _GROUPS_OF_SIGNS, 127))
    return _looked_up("IQ3_XXS", blocks[:, 2:66].long(), factors, signs)


def _iq3_s(blocks: Tensor) -> Tensor:
    scales = _fields(blocks[:, 106:], _HALF, 15)
    factors = _halves(blocks, 0) * (1 + 2 * scales.float())
    high = _fields(blocks[:, 66:74], tuple(range(8)), 1)
    indices = blocks[:, 2:66].long() | high.long() << 8
    return _looked_up("IQ3_S", indices, factors, _signs(blocks[:, 74:106]))


def _iq1_s(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 34:], 2)
    factors = _halves(blocks, 0) * (2 * ((words >> 12) & 7) + 1).float()
    indices = blocks[:, 2:34].long() | _fields(words, (0, 3, 6, 9), 7) << 8
    return _with_delta("IQ1_S", indices, factors, words & 0x8000)


def _iq1_m(blocks: Tensor) -> Tensor:
    words = _words(blocks[:, 48:], 2)
    # the block's float16 scale lies in the highest four bits of four numbers
    top = words >> 12
    bits = top[:, 0] | top[:, 1] << 4 | top[:, 2] << 8 | top[:, 3] << 12
    signed = torch.where(bits >= 0x8000, bits - 0x10000, bits).to(torch.int16)
    factors = signed.view(torch.float16).float()[:, None]
    factors = factors * (2 * _fields(words, (0, 3, 6, 9), 7) + 1).float()
    high = _fields(blocks[:, 32:48], _HALF, 15).long()
    indices = blocks[:, :32].long() | (high & 7) << 8
    return _with_delta("IQ1_M", indices, factors, high & 8)


def _with_delta(name: str, indices: Tensor, factors: Tensor, minus: Tensor) -> Tensor:
    """factor * (grid + 1/8), or - 1/8 where `minus` is not 0: of each group or of each row."""
    grid = _rows(_grid(name, indices.device), indices)
    delta = torch.where(minus == 0, 0.125, -0.125)
    delta = delta.repeat_interleave(indices.shape[1] // minus.shape[1], dim=1)[..., None]
    shifted = (grid + delta).view(len(grid), factors.shape[1], -1)
    return (factors[:, :, None] * shifted).flatten(1)


def _nibbles(packed: Tensor, run: int) -> Tensor:
    """Of each run of bytes all low halves, then all high ones."""
    runs = packed.reshape(len(packed), -1, run)
    return torch.stack((runs & 15, runs >> 4), dim=2).flatten(1)


def _iq4_nl(blocks: Tensor) -> Tensor:
    values = _table(gguf.quants.IQ4_NL.kvalues, blocks.device)
    return _rows(values, _nibbles(blocks[:, 2:], 16)).mul_(_halves(blocks, 0))


def _iq4_xs(blocks: Tensor) -> Tensor:
    high = _fields(_words(blocks[:, 2:4], 2), tuple(range(0, 16, 2)), 3)
    scales = (_fields(blocks[:, 4:8], _HALF, 15).long() | high << 4) - 32
    values = _rows(_table(gguf.quants.IQ4_NL.kvalues, blocks.device), _nibbles(blocks[:, 8:], 16))
    factors = _halves(blocks, 0) * scales.float()
    return (factors[:, :, None] * values.view(len(blocks), 8, 32)).flatten(1)


def _tq1_0(blocks: Tensor) -> Tensor:
    """Five numbers of three values in a byte: multiplied by powers of 3, modulo 256."""
    parts = []
    # where they begin, bytes, numbers in each byte
    for start, run, count in ((0, 32, 5), (32, 16, 5), (48, 4, 4)):
        runs = blocks[:, start : start + run]
        parts.append(torch.stack([runs * 3**i for i in range(count)], dim=1).flatten(1))
    codes = (torch.cat(parts, dim=1).short() * 3 >> 8) - 1
    return _halves(blocks, 52) * codes.float()


def _tq2_0(blocks: Tensor) -> Tensor:
    runs = blocks[:, :64].reshape(len(blocks), -1, 32)
    codes = torch.stack([(runs >> shift) & 3 for shift in (0, 2, 4, 6)], dim=2).flatten(1)
    return _halves(blocks, 64) * (codes.float() - 1)


def _mxfp4(blocks: Tensor) -> Tensor:
    exponent = blocks[:, :1].int()
    # half of 2^(e - 127), the table having doubled numbers; the least two are subnormal
    bits = torch.where(exponent < 2, 0x200000 << exponent, (exponent - 1) << 23)
    values = _rows(_table(gguf.quants.MXFP4.kvalues, blocks.device), _nibbles(blocks[:, 1:], 16))
    return values.mul_(bits.view(torch.float32))


def _nvfp4(blocks: Tensor) -> Tensor:
    codes = blocks[:, :4]
    exponent, fraction = (codes >> 3).int() & 15, (codes & 7).float()
    wide = (1 + fraction / 8) * torch.exp2(exponent.float() - 7)
    scales = torch.where(exponent == 0, fraction * 2**-9, wide) * 0.5
    scales = torch.where((codes == 0) | (codes == 0x7F), 0.0, scales)
    values = _rows(_table(gguf.quants.NVFP4.kvalues, blocks.device), _nibbles(blocks[:, 4:], 8))
    return (scales[:, :, None] * values.view(len(blocks), 4, 16)).flatten(1)


CODEBOOK_FORMATS = {
    block.name: block
    for block in (
        BlockFormat("IQ1_S", 256, 50, _iq1_s),
        BlockFormat("IQ1_M", 256, 56, _iq1_m),
        BlockFormat("IQ2_XXS", 256, 66, _iq2_xxs),
        BlockFormat("IQ2_XS", 256, 74, _iq2_xs),
        BlockFormat("IQ2_S", 256, 82, _iq2_s),
        BlockFormat("IQ3_XXS", 256, 98, _iq3_xxs),
        BlockFormat("IQ3_S", 256, 110, _iq3_s),
        BlockFormat("IQ4_NL", 32, 18, _iq4_nl),
        BlockFormat("IQ4_XS", 256, 136, _iq4_xs),
        BlockFormat("TQ1_0", 256, 54, _tq1_0),
        BlockFormat("TQ2_0", 256, 66, _tq2_0),
        BlockFormat("MXFP4", 32, 17, _mxfp4),
        BlockFormat("NVFP4", 64, 36, _nvfp4),
    )
}
