"""Linears that multiply float8 codes by float8 codes: lossy, because inputs are rounded too.

    y = (x_codes · w_codes^T) · input_scale · weight_scale        by torch._scaled_mm

With the file's input_scale and one weight scale both are numbers (static, as BFL made its files).
Without, each token has its own input scale, max |x| / 448, found as it runs (dynamic), and each
row of the weight one. Codes are E4M3. Compiled, the rounding is fused into what makes the input.
Source: klein-facts B.2; torch's documentation of scaled products.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute.matmul import JoinedLinear
from kleinod.errors import WeightsError
from kleinod.quantization.float8 import Float8Weight
from kleinod.quantization.stored import StoredLinear

LARGEST = 448.0
# tensor cores take rows and columns by sixteen
_MULTIPLE = 16
# Ada, the first with float8 products
_LEAST_CAPABILITY = (8, 9)
# the linears of a transformer's and a text encoder's blocks
_BLOCKS = ("double_blocks.", "single_blocks.", "model.layers.")


class ScaledFloat8Linear(nn.Module):
    """Stands in for nn.Linear without a bias."""

    codes: Tensor
    scale: Tensor
    input_scale: Tensor | None

    def __init__(self, codes: Tensor, scale: Tensor, input_scale: Tensor | None = None) -> None:
        """codes (rows, columns), E4M3; scale of 1 or rows numbers; input_scale one number."""
        super().__init__()
        assert codes.dtype == torch.float8_e4m3fn and scale.numel() in (1, len(codes))
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale.float().reshape(1, -1))
        static = None if input_scale is None else input_scale.float().reshape(1, 1)
        self.register_buffer("input_scale", static)

    @property
    def is_finite(self) -> bool:
        """Whether all weights and scales are: E4M3 has one code for NaN, of either sign."""
        has_nan = ((self.codes.view(torch.uint8) & 0x7F) == 0x7F).any()
        scales = [self.scale] if self.input_scale is None else [self.scale, self.input_scale]
        return not has_nan and all(bool(torch.isfinite(scale).all()) for scale in scales)

    def forward(self, x: Tensor) -> Tensor:
        """(…, columns) to (…, rows), in x's dtype."""
        flat = x.reshape(-1, x.shape[-1])
        input_scale = row_scales(flat) if self.input_scale is None else self.input_scale
        codes, weight_scale = rounded(flat, input_scale), self.scale
        if self.input_scale is None or weight_scale.numel() > 1:
            # one number a row on both sides, or one number on both: nothing between is known
            input_scale = input_scale.expand(len(flat), 1).contiguous()
            weight_scale = weight_scale.expand(1, len(self.codes)).contiguous()
        # float16 is no output of these kernels
        out_dtype = torch.bfloat16 if x.dtype == torch.float16 else x.dtype
        out = torch._scaled_mm(codes, self.codes.T, input_scale, weight_scale, out_dtype=out_dtype)
        return out.to(x.dtype).view(*x.shape[:-1], -1)


def row_scales(x: Tensor) -> Tensor:
    """max |x| / 448 of each row (n, 1), float32; of a row of zeros the smallest number above 0."""
    tiny = torch.finfo(torch.float32).tiny
    return (x.abs().amax(dim=-1, keepdim=True).float() / LARGEST).clamp(min=tiny)


def rounded(x: Tensor, scale: Tensor) -> Tensor:
    """The nearest E4M3 codes of x / scale; over 448 becomes 448: E4M3 has no infinity."""
    return (x.float() / scale).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def can_multiply(device: torch.device) -> bool:
    """Whether a device has float8 products. The CPU computes them too, exactly and slowly."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _LEAST_CAPABILITY
    return device.type == "cpu"


def with_float8_products(module: nn.Module) -> int:
    """Give the block linears of a loaded component float8 products; how many got them.

    FP8 files keep their codes and scales; 16- and 32-bit weights are rounded row by row. Other
    stored formats stay as they are: rounding them once more would lose more.
    Raises WeightsError where a weight or a scale is not finite.
    """
    swapped = {
        name: new
        for name, old in module.named_modules()
        if name.startswith(_BLOCKS) and (new := _swapped(old)) is not None
    }
    for name, new in swapped.items():
        if not new.is_finite:
            raise WeightsError(
                f"model: weight {name}.weight holds NaN or infinity; fetch the model again"
            )
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, new)
    return len(swapped)


def _swapped(old: nn.Module) -> ScaledFloat8Linear | None:
    if isinstance(old, StoredLinear):
        parts = list(old.parts)
        if not all(isinstance(p, Float8Weight) and _is_e4m3(p) for p in parts):
            return None
        made = _from_codes([part for part in parts if isinstance(part, Float8Weight)])
    elif isinstance(old, JoinedLinear):
        made = _from_numbers(torch.cat(list(old.parts)))
    elif isinstance(old, nn.Linear) and old.bias is None:
        made = _from_numbers(old.weight)
    else:
        return None
    return made if all(side % _MULTIPLE == 0 for side in made.codes.shape) else None


def _is_e4m3(part: Float8Weight) -> bool:
    return part.code_dtype == torch.float8_e4m3fn


def _from_codes(parts: list[Float8Weight]) -> ScaledFloat8Linear:
    codes = torch.cat([part.codes for part in parts]).view(torch.float8_e4m3fn)
    static = [part.input_scale for part in parts if part.input_scale is not None]
    # pieces of one matrix see one input: the widest scale clips none of them
    input_scale = torch.stack([s.float().amax() for s in static]).amax() if static else None
    if len(static) < len(parts):
        input_scale = None
    scales = [part.scale for part in parts]
    if len(parts) > 1:
        scales = [part.scale.expand(part.shape[0], 1) for part in parts]
    return ScaledFloat8Linear(codes, torch.cat(scales), input_scale)


def _from_numbers(weight: Tensor) -> ScaledFloat8Linear:
    scales = row_scales(weight.detach())
    return ScaledFloat8Linear(rounded(weight.detach(), scales), scales)


def plain_product(x: Tensor, linear: ScaledFloat8Linear) -> Tensor:
    """What forward computes, by float32 products of the same codes: for tests and other devices."""
    flat = x.reshape(-1, x.shape[-1])
    scale = row_scales(flat) if linear.input_scale is None else linear.input_scale
    wide = F.linear(rounded(flat, scale).float() * scale, linear.codes.float() * linear.scale.T)
    return wide.to(x.dtype).view(*x.shape[:-1], -1)
