"""Tensor functions that more than one component computes."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of x (…, dim) in float32, rounded to scale's dtype, times scale."""
    wide = x.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(scale.dtype) * scale


def within_float16(x: Tensor) -> Tensor:
    """x, and in float16 clipped to its finite range, as diffusers does after each block."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x


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
