"""How many floating-point operations a picture takes, from the model's shapes alone.

A product of (m, k) by (k, n) is 2mkn operations. Attention (both of its products, over the whole
square of tokens) is counted apart from the linears; convolutions count as the products they are;
norms, activations and rotations are left out.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.models.autoencoder import Autoencoder


@dataclass(frozen=True)
class Work:
    """Operations of one stage."""

    linear: float
    attention: float = 0.0

    @property
    def total(self) -> float:
        """Both."""
        return self.linear + self.attention


def step_work(config: TransformerConfig, num_image_tokens: int, num_text_tokens: int) -> Work:
    """One pass of the transformer; references count as image tokens."""
    h, mlp = config.hidden_dim, int(config.hidden_dim * config.mlp_ratio)
    num_blocks = config.num_layers + config.num_single_layers
    tokens = num_image_tokens + num_text_tokens
    blocks = num_blocks * tokens * (4 * h * h + 3 * h * mlp)
    ends = num_text_tokens * config.joint_attention_dim * h
    ends += 2 * num_image_tokens * config.in_channels * h
    once = (6 + 6 + 3 + 2) * h * h + config.timestep_guidance_channels * h + h * h
    return Work(2.0 * (blocks + ends + once), 4.0 * num_blocks * tokens**2 * h)


def text_work(config: TextEncoderConfig, num_layers: int, num_tokens: int, num_keys: int) -> Work:
    """One prompt through the layers that are read; its first num_keys tokens have keys."""
    heads = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    dim, inner = config.hidden_size, config.intermediate_size
    layer = num_tokens * (2 * dim * heads + 3 * dim * inner) + num_keys * 2 * dim * keys
    attention = 4.0 * num_layers * num_tokens * num_keys * heads
    return Work(2.0 * num_layers * layer, attention)


def autoencoder_work(config: AutoencoderConfig, rows: int, columns: int) -> dict[str, Work]:
    """Encoding and decoding of a picture of rows x columns latents, by torch's own counter."""
    with torch.device("meta"):
        model = Autoencoder(config).eval()
        latents = torch.empty(1, config.latent_channels, rows * 2, columns * 2)
        picture = torch.empty(1, config.in_channels, rows * 16, columns * 16)
    widths = config.block_out_channels, config.decoder_block_out_channels
    attention = 4.0 * (rows * 2 * columns * 2) ** 2 * config.mid_block_add_attention
    return {
        "encode_reference": _counted(model.encoder, picture, attention * widths[0][-1]),
        "decode": _counted(model.decoder, latents, attention * (widths[1] or widths[0])[-1]),
    }


def _counted(module: nn.Module, x: torch.Tensor, attention: float) -> Work:
    # by plain products: the CPU's own kernel of attention is not counted
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), plain:
        module(x)
    return Work(counter.get_total_flops() - attention, attention)
