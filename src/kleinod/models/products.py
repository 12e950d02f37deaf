"""In which numbers a device multiplies.

Many laptops' processors (AVX2) have no products of bfloat16 numbers, and PyTorch's own loop for
them is slower than float32, five times for a matrix, hundreds of times for a convolution. There
weights stay bfloat16 in memory and products are computed in float32, a piece of a weight at a time,
and rounded once: as exact as those of a processor that has them, whose sums are float32 too.
"""

from functools import cache

import torch


@torch.compiler.assume_constant_result
def has_bfloat16() -> bool:
    """Whether this processor's products of bfloat16 numbers are those of oneDNN."""
    return _asked()


@cache
def _asked() -> bool:
    try:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    # a PyTorch that was built without oneDNN does not know the question
    except (AttributeError, RuntimeError, NotImplementedError):
        return False


def product_dtype(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What numbers of a dtype are multiplied as."""
    is_slow = dtype == torch.bfloat16 and device.type == "cpu" and not has_bfloat16()
    return torch.float32 if is_slow else dtype
