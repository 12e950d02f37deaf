"""Train text encoder and transformer together as a rectified flow.

x_sigma = (1 - sigma) clean + sigma noise; the transformer learns noise - clean. Sigmas are
logit-normal, then shifted as the sampler shifts them. A tenth of the captions is empty, so that the
model can be guided. References are further tokens at T = 10, 20, … and carry no noise.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kleinod.compute.matmul import product_dtype
from kleinod.config import TextEncoderConfig, TransformerConfig
from kleinod.diffusion import latents
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer


class Flow(nn.Module):
    """Text encoder and transformer of one size: velocity of tokens from prompts."""

    def __init__(
        self, config: TransformerConfig, text: TextEncoderConfig, layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.text_encoder = TextEncoder(text, layers)

    def forward(
        self, tokens: Tensor, times: Tensor, ids: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """tokens (b, l, 128) with references appended; positions (l, 4); velocity (b, l, 128)."""
        text = self.text_encoder(ids, mask)
        text_positions = latents.text_position_ids(ids.shape[1])
        return self.transformer(tokens, times, text, positions, text_positions)


@contextmanager
def training_attention(device: str = "cpu") -> Iterator[None]:
    """On the CPU attention by plain matmuls, whose backward is faster."""
    if device != "cpu":
        yield
        return
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with sdpa_kernel(SDPBackend.MATH):
        yield


def autocast(
    device: str = "cpu", weights: torch.dtype = torch.float32
) -> AbstractContextManager[None]:
    """bfloat16 autocast where the device multiplies bfloat16, or the weights are; else float32.

    On a processor with AVX2 alone a step in bfloat16 takes 15 times as long (docs/training.md).
    """
    is_wanted = weights == torch.bfloat16 or has_fast_bfloat16(device)
    return torch.autocast(device, torch.bfloat16, enabled=is_wanted)


def has_fast_bfloat16(device: str) -> bool:
    """Whether a kind of device multiplies bfloat16 as such."""
    return product_dtype(torch.bfloat16, torch.device(device)) == torch.bfloat16


@contextmanager
def training_precision(device: str = "cpu", weights: torch.dtype = torch.float32) -> Iterator[None]:
    """Autocast, and training's attention."""
    with autocast(device, weights), training_attention(device):
        yield


def reference_positions(grid: tuple[int, int], references: int) -> Tensor:
    """Position ids (l, 4) of a target of (rows, columns) and of references of the same size."""
    grids = [latents.image_position_ids(*grid, 10 * n) for n in range(references + 1)]
    return torch.cat(grids)


def sample_sigmas(count: int, spread: float, shift: float) -> Tensor:
    """(count,) in (0, 1): logit-normal of a spread, shifted towards noise."""
    return torch.sigmoid(spread * torch.randn(count) + shift)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Muon takes the inner matrices; embeddings, ends and norms stay with AdamW."""
    ends = ("embed_tokens", "img_in", "final_layer.linear", "time_in.in_layer")
    return parameter.ndim == 2 and not any(end in name for end in ends)
