"""Full attention on NVIDIA cards: the best kernel that is present and runs, chosen once.

FlashAttention 3 where its package is installed (Hopper), cuDNN's, PyTorch's FlashAttention, and at
last whatever scaled_dot_product_attention takes. All compute softmax(q k^T / sqrt(d)) v with
float32 sums. Which was chosen is in `chosen`, for the log and the bench. Unmeasured so far.
"""

import logging
from collections.abc import Callable
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from kleinod.compute.graph_constants import constant_in_graphs

FLASH3, CUDNN, FLASH, PLAIN = "flash-attention-3", "cudnn", "flash", "plain"
_HOPPER, _AMPERE = (9, 0), (8, 0)
_log = logging.getLogger(__name__)
_choices: dict[tuple[torch.device, torch.dtype, int], str] = {}


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries, keys and values (b, l, n, d) to (b, l, n * d)."""
    return _KERNELS[chosen(q.device, q.dtype, q.shape[-1])](q, k, v).flatten(2)


@constant_in_graphs
def chosen(device: torch.device, dtype: torch.dtype, head_dim: int) -> str:
    """The kernel's name, found by trying on the first call and logged."""
    key = (device, dtype, head_dim)
    if key not in _choices:
        _choices[key] = next(name for name in _candidates(device) if _runs(name, *key))
        _log.info("attention on %s in %s: %s", device, dtype, _choices[key])
    return _choices[key]


def _candidates(device: torch.device) -> tuple[str, ...]:
    """From best to worst; each still has to run."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if capability >= _HOPPER:
        return FLASH3, CUDNN, FLASH, PLAIN
    return (FLASH, CUDNN, PLAIN) if capability >= _AMPERE else (PLAIN,)


def _runs(name: str, device: torch.device, dtype: torch.dtype, head_dim: int) -> bool:
    """Whether a kernel takes such numbers on this device."""
    x = torch.zeros(1, 128, 2, head_dim, dtype=dtype, device=device)
    try:
        return bool(_KERNELS[name](x, x, x).isfinite().all())
    # a missing package, an unfit device, dtype or width: what each kernel raises is its own affair
    except (ImportError, AttributeError, RuntimeError, TypeError, ValueError):
        return False


def _flash3(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out = import_module("flash_attn_interface").flash_attn_func(q, k, v)
    return out[0] if isinstance(out, tuple) else out


def _by(backend: SDPBackend) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    def kernel(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        with sdpa_kernel(backend):
            return _plain(q, k, v)

    return kernel


def _plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2)


_KERNELS = {
    FLASH3: _flash3,
    CUDNN: _by(SDPBackend.CUDNN_ATTENTION),
    FLASH: _by(SDPBackend.FLASH_ATTENTION),
    PLAIN: _plain,
}
