"""Full attention over (b, l, n, d), the fastest that the device has.

softmax(q k^T / sqrt(d)) v, without a mask. On the CPU torch's own kernel is the fastest at every
length (docs/log.md has what was tried). Knows nothing about blocks.
"""

import torch.nn.functional as F
from torch import Tensor

from kleinod.models import attention_cuda


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (b, l, n, d) to (b, l, n * d)."""
    if q.device.type == "cuda":
        return attention_cuda.attention(q, k, v)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)
