"""Full attention over (b, l, n, d), the fastest that the device has.

softmax(q k^T / sqrt(d)) v, without a mask. On the CPU by kernels/attention.c where the processor
allows it, which rounds where PyTorch's own kernel does: 1 to 3 of 1,000 numbers have another last
bit. Elsewhere by PyTorch. Modes that are another picture anyway have `inexact`: where a processor
multiplies bfloat16 by AVX512, PyTorch's kernel runs at a third of the speed of a plain product, so
without our code it is plain products whose scores are rounded to bfloat16. Knows nothing about
blocks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.compute import attention_cuda, workspace
from kleinod.compute.matmul import is_tiled
from kleinod.kernels import native

# scores of so many queries of one head against all keys stay in a core's cache
_QUERIES_AT_ONCE = 256
# of fewer tokens torch's kernel is as fast
_MIN_TOKENS = 512


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (b, l, n, d) to (b, l, n * d)."""
    if q.device.type == "cuda":
        return attention_cuda.attention(q, k, v)
    if is_tiled(q) and native.takes_heads(q, k, v):
        return native.attention(q, k, v).flatten(2)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


def inexact(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The same, less exact where that is faster.

    Error of plain products against float64, root of the mean square: 0.005 of normal numbers, 0.012
    of queries three times as large, where PyTorch's kernel and ours have 0.002.
    """
    if torch.compiler.is_compiling() or q.device.type != "cpu" or not has_slow_kernel():
        return attention(q, k, v)
    is_fit = q.dtype == torch.bfloat16 and q.shape[1] >= _MIN_TOKENS
    return _by_products(q, k, v) if is_fit else attention(q, k, v)


def has_slow_kernel() -> bool:
    """Whether this CPU multiplies bfloat16, but not in PyTorch's attention, without ours."""
    if native.is_usable() or torch.cpu._is_amx_tile_supported():
        return False
    return bool(torch.cpu._is_avx512_bf16_supported())


def _by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    b, length, n, d = q.shape
    out = workspace.empty(q.shape, q.dtype)
    # a head for each core
    count = min(n, torch.get_num_threads())
    scores = workspace.empty((count, min(_QUERIES_AT_ONCE, length), length), q.dtype)
    q = q * d**-0.5
    for row in range(b):
        for head in range(0, n, count):
            some = slice(head, head + count)
            qh, kh, vh = (x[row, :, some].transpose(0, 1).contiguous() for x in (q, k, v))
            for start in range(0, length, _QUERIES_AT_ONCE):
                queries = slice(start, start + _QUERIES_AT_ONCE)
                part = scores[: len(qh), : qh[:, queries].shape[1]]
                torch.bmm(qh[:, queries], kh.transpose(1, 2), out=part)
                torch.softmax(part, -1, out=part)
                out[row, queries, some] = torch.bmm(part, vh).transpose(0, 1)
    return out.flatten(2)
