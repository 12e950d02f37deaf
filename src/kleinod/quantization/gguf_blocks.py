"""The block formats of GGUF: how the bytes of a block become float32 numbers.

Each function takes blocks (n, bytes) of uint8 and gives (n, numbers). d is a block's float16 scale,
m its minimum. Within a byte the low bits are a number of the first half, the high bits one of the
second. Source: ggml's published formats; tests compare each with the gguf package, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class BlockFormat:
    """So many numbers in so many bytes."""

    name: str
    num_numbers: int
    num_bytes: int
    expand: Callable[[Tensor], Tensor]


def _halves(blocks: Tensor, start: int, count: int = 1) -> tuple[Tensor, ...]:
    """Consecutive float16 numbers of each block, as float32 (n, 1, 1)."""
    raw = blocks[:, start : start + 2 * count].contiguous()
    return tuple(raw.view(torch.float16).float()[:, :, None, None].unbind(1))


def _bits(packed: Tensor, width: int, run: int) -> Tensor:
    """Fields of `width` bits: of each run of bytes all lowest fields, then all next ones."""
    runs = packed.reshape(len(packed), -1, run)
    # one shift after the other: shifting by a tensor is not vectorised
    fields = [(runs >> shift) & (2**width - 1) for shift in range(0, 8, width)]
    return torch.stack(fields, dim=2).flatten(1)


def _single_bits(packed: Tensor) -> Tensor:
    """32 bits, lowest first, of 4 bytes."""
    return torch.stack([(packed >> shift) & 1 for shift in range(8)], dim=2).flatten(1)


def _scaled(numbers: Tensor, scale: Tensor, minimum: Tensor | None = None) -> Tensor:
    """numbers (n, …) in groups times scale (n, groups, 1), less minimum of the same shape."""
    wide = numbers.float().view(len(numbers), scale.shape[1], -1).mul_(scale)
    return (wide if minimum is None else wide.sub_(minimum)).flatten(1)


def _q8_0(blocks: Tensor) -> Tensor:
    (d,) = _halves(blocks, 0)
    return _scaled(blocks[:, 2:].view(torch.int8), d)


def _q4_0(blocks: Tensor) -> Tensor:
    (d,) = _halves(blocks, 0)
    return _scaled(_bits(blocks[:, 2:], 4, 16).view(torch.int8) - 8, d)


def _q4_1(blocks: Tensor) -> Tensor:
    d, m = _halves(blocks, 0, 2)
    return _scaled(_bits(blocks[:, 4:], 4, 16), d, -m)


def _q5_0(blocks: Tensor) -> Tensor:
    (d,) = _halves(blocks, 0)
    numbers = _bits(blocks[:, 6:], 4, 16) | (_single_bits(blocks[:, 2:6]) << 4)
    return _scaled(numbers.view(torch.int8) - 16, d)


def _q5_1(blocks: Tensor) -> Tensor:
    d, m = _halves(blocks, 0, 2)
    return _scaled(_bits(blocks[:, 8:], 4, 16) | (_single_bits(blocks[:, 4:8]) << 4), d, -m)


def _q2_k(blocks: Tensor) -> Tensor:
    d, m = _halves(blocks, 80, 2)
    scales = blocks[:, :16, None]
    numbers = _bits(blocks[:, 16:80], 2, 32)
    return _scaled(numbers, d * (scales & 15).float(), m * (scales >> 4).float())


def _q3_k(blocks: Tensor) -> Tensor:
    (d,) = _halves(blocks, 108)
    low, high = _bits(blocks[:, 96:104], 4, 8), _bits(blocks[:, 104:108], 2, 4)
    scales = (low | (high << 4)).view(torch.int8) - 32
    # a set bit of the mask means that 4 is not taken away
    numbers = _bits(blocks[:, 32:96], 2, 32) | (_bits(blocks[:, :32], 1, 32) << 2)
    return _scaled(numbers.view(torch.int8) - 4, d * scales.float()[:, :, None])


def _six_bit_pairs(packed: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima (n, 8, 1) of 6 bits each, from 12 bytes."""
    scale, minimum, rest = packed.reshape(-1, 3, 4).unbind(1)
    scales = torch.cat((scale & 63, (rest & 15) | ((scale >> 2) & 48)), dim=1)
    minima = torch.cat((minimum & 63, (rest >> 4) | ((minimum >> 2) & 48)), dim=1)
    return scales.float()[:, :, None], minima.float()[:, :, None]


def _q4_k(blocks: Tensor) -> Tensor:
    d, m = _halves(blocks, 0, 2)
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    return _scaled(_bits(blocks[:, 16:], 4, 32), d * scales, m * minima)


def _q5_k(blocks: Tensor) -> Tensor:
    d, m = _halves(blocks, 0, 2)
    scales, minima = _six_bit_pairs(blocks[:, 4:16])
    numbers = _bits(blocks[:, 48:], 4, 32) | (_bits(blocks[:, 16:48], 1, 32) << 4)
    return _scaled(numbers, d * scales, m * minima)


def _q6_k(blocks: Tensor) -> Tensor:
    (d,) = _halves(blocks, 208)
    scales = blocks[:, 192:208].view(torch.int8).float()[:, :, None]
    numbers = _bits(blocks[:, :128], 4, 64) | (_bits(blocks[:, 128:192], 2, 32) << 4)
    return _scaled(numbers.view(torch.int8) - 32, d * scales)


FORMATS = {
    block.name: block
    for block in (
        BlockFormat("Q8_0", 32, 34, _q8_0),
        BlockFormat("Q4_0", 32, 18, _q4_0),
        BlockFormat("Q4_1", 32, 20, _q4_1),
        BlockFormat("Q5_0", 32, 22, _q5_0),
        BlockFormat("Q5_1", 32, 24, _q5_1),
        BlockFormat("Q2_K", 256, 84, _q2_k),
        BlockFormat("Q3_K", 256, 110, _q3_k),
        BlockFormat("Q4_K", 256, 144, _q4_k),
        BlockFormat("Q5_K", 256, 176, _q5_k),
        BlockFormat("Q6_K", 256, 210, _q6_k),
    )
}
