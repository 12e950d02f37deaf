"""Tensor functions that more than one component computes.

Each has its plain formula here. On the CPU without gradients the same numbers are computed piece by
piece (lazy_linear.py, which says how nearly): there a whole tensor is slow to pass over, not to
compute.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute import lazy_linear
from kleinod.compute.lazy_linear import Columns, product


def is_in_pieces(x: Tensor) -> bool:
    """Whether the formulas run as compute/lazy_linear.py has them."""
    return x.device.type == "cpu" and not torch.is_grad_enabled()


def columns(linear: nn.Module, x: Tensor) -> Columns:
    """The columns of linear(x)."""
    if is_in_pieces(x):
        return lazy_linear.columns(linear, x)
    whole = product(linear, x)
    return Columns(x, lambda start, stop: whole[..., start:stop], is_whole=True)


def rms_norm(x: Tensor, scale: Tensor, eps: float) -> Tensor:
    """Root-mean-square norm of x (…, dim) in float32, rounded to scale's dtype, times scale."""
    if is_in_pieces(x):
        return lazy_linear.rms_norm(x, scale, eps)
    wide = x.float()
    normalised = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return normalised.to(scale.dtype) * scale


def modulated(x: Tensor, shift: Tensor, scale: Tensor, eps: float) -> Tensor:
    """LayerNorm of x (b, l, h) without affine, then (1 + scale) x + shift; both are (b, 1, h)."""
    if is_in_pieces(x):
        return lazy_linear.modulated(x, shift, scale, eps)
    return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=eps) + shift


def modulated_columns(
    linear: nn.Module, x: Tensor, shift: Tensor, scale: Tensor, eps: float
) -> Columns:
    """The columns of linear(modulated(x))."""
    if is_in_pieces(x):
        return lazy_linear.modulated_columns(linear, x, shift, scale, eps)
    return columns(linear, modulated(x, shift, scale, eps))


def swiglu(gate: Columns, value: Columns, dim: int, *, beside: Tensor | None = None) -> Tensor:
    """SiLU(gate) * value of dim columns, behind those of another tensor; (b, l, …)."""
    if is_in_pieces(gate.of):
        return lazy_linear.swiglu(gate, value, dim, beside)
    inner = F.silu(gate(0, dim)) * value(0, dim)
    return inner if beside is None else torch.cat((beside, inner), dim=-1)


def gated_sum(x: Tensor, gate: Tensor | None, linear: nn.Module, y: Tensor) -> Tensor:
    """x + gate * linear(y); x (b, l, h), gate (b, 1, h) or none."""
    if is_in_pieces(x):
        return lazy_linear.gated_sum(x, gate, lazy_linear.columns(linear, y))
    added = product(linear, y)
    return x + (added if gate is None else gate * added)


def within_float16(x: Tensor) -> Tensor:
    """x, and in float16 clipped to its finite range, as diffusers does after each block."""
    return x.clip(-65504, 65504) if x.dtype == torch.float16 else x
