"""Full attention over (b, l, n, d), the fastest that the device has for the length.

softmax(q k^T / sqrt(d)) v, without a mask. docs/speed.md states how far each way is from float32.
Knows nothing about blocks.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.models import attention_cuda

# From here on torch's own kernel on the CPU is slower than whole rows of scores.
BLOCKED_FROM_TOKENS = 2048
# Their scores against 4,608 keys, 2.4 MB, stay in the second-level caches.
_QUERIES_AT_ONCE = 256


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (b, l, n, d) to (b, l, n * d)."""
    if q.device.type == "cuda":
        return attention_cuda.attention(q, k, v)
    if _is_long_on_cpu(q):
        return blocked(q, k, v)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def _is_long_on_cpu(q: Tensor) -> bool:
    is_inference = q.device.type == "cpu" and not torch.is_grad_enabled()
    return is_inference and q.dtype == torch.bfloat16 and q.shape[1] >= BLOCKED_FROM_TOKENS


def blocked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Head by head, some queries at a time against all keys: three calls with whole rows.

    The scores are rounded to bfloat16 once, before the softmax, whose sums are in float32.
    """
    out = torch.empty_like(q)
    scale, unused = 1 / math.sqrt(q.shape[-1]), q.new_zeros(1)
    for index in range(len(q)):
        for head in range(q.shape[2]):
            queries, keys = q[index, :, head].contiguous(), k[index, :, head].T.contiguous()
            values = v[index, :, head].contiguous()
            for start in range(0, len(queries), _QUERIES_AT_ONCE):
                rows = slice(start, start + _QUERIES_AT_ONCE)
                scores = torch.addmm(unused, queries[rows], keys, beta=0, alpha=scale)
                out[index, rows, head] = torch.softmax(scores, dim=-1) @ values
    return out.flatten(2)
