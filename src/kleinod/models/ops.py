"""Tensor functions that more than one component computes."""

import torch
from torch import Tensor


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of x (…, dim) in float32, rounded to scale's dtype, times scale."""
    wide = x.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(scale.dtype) * scale
