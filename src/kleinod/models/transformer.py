"""The rectified-flow transformer: velocity = transformer(latents, time, text).

Module attributes are the keys of the published single files. Sequence order is
[text, image, references]; modulation is computed once and shared by all blocks. No biases.
Source of the maths: klein-facts A.4 (the published reference code and diffusers 0.42.1).
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute import lazy_linear, ops, workspace
from kleinod.compute.attention import attention
from kleinod.compute.ops import Columns
from kleinod.config import TransformerConfig

Rotation = tuple[Tensor, Tensor]


def rope(position_ids: Tensor, axes_dims: tuple[int, ...], theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (l, d/2), float32, of position ids (l, axes); angles in float64.

    Computed where the ids lie: ids on the CPU give every device one table (mps has no float64).
    """
    angles = []
    for axis, dim in enumerate(axes_dims):
        exponents = torch.arange(0, dim, 2, dtype=torch.float64, device=position_ids.device) / dim
        angles.append(position_ids[:, axis, None].double() * theta**-exponents)
    joined = torch.cat(angles, dim=-1)
    return joined.cos().float(), joined.sin().float()


def apply_rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate adjacent pairs of x (b, l, n, d) in float32."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    rotated = torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1)
    return rotated.flatten(-2).to(x.dtype)


def timestep_sinusoid(timesteps: Tensor, dim: int) -> Tensor:
    """Cosine half, then sine half, of 1000 * timesteps (b,); float32 (b, dim)."""
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device)
    frequencies = torch.exp(-math.log(10000) * steps / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def _linear(in_dim: int, out_dim: int) -> nn.Linear:
    return nn.Linear(in_dim, out_dim, bias=False)


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (…, dim)."""
        return ops.rms_norm(x, self.scale, self.eps)

    def turned(self, columns: Columns, count: int, rotation: Rotation) -> Tensor:
        """The first columns of (b, l, …) as heads (b, l, n, d), normalised, then rotated."""
        if ops.is_in_pieces(columns.of):
            turns = torch.complex(*rotation)
            return lazy_linear.turned(columns, count, self.scale, eps=self.eps, turns=turns)
        x = columns(0, count).unflatten(-1, (-1, len(self.scale)))
        return apply_rope(self(x), *rotation)


class QKNorm(nn.Module):
    """One norm for queries and one for keys, per head."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.query_norm = RMSNorm(dim, eps)
        self.key_norm = RMSNorm(dim, eps)


class SelfAttention(nn.Module):
    """Fused qkv, its norms and the output projection of one stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h = config.hidden_dim
        self.num_heads, self.eps = config.num_attention_heads, config.eps
        self.qkv = _linear(h, 3 * h)
        self.norm = QKNorm(config.attention_head_dim, config.eps)
        self.proj = _linear(h, h)

    def heads(
        self, x: Tensor, mod: tuple[Tensor, ...], rotation: Rotation
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, l, n, d) of x (b, l, h), modulated first."""
        qkv = ops.modulated_columns(self.qkv, x, mod[0], mod[1], self.eps)
        return heads(qkv, self.norm, rotation, num_heads=self.num_heads)


def heads(
    qkv: Columns, norm: QKNorm, rotation: Rotation, *, num_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Split (b, l, 3h) into q, k, v (b, l, n, d); normalise and rotate q and k."""
    h = num_heads * len(norm.query_norm.scale)
    q = norm.query_norm.turned(qkv, h, rotation)
    k = norm.key_norm.turned(qkv.behind(h), h, rotation)
    return q, k, qkv(2 * h, 3 * h).unflatten(-1, (num_heads, -1))


class Modulation(nn.Module):
    """Chunks of (shift, scale, gate), each (b, 1, h), from the time vector (b, h)."""

    def __init__(self, dim: int, num_chunks: int) -> None:
        super().__init__()
        self.num_chunks = num_chunks
        self.lin = _linear(dim, num_chunks * dim)

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        """SiLU, one linear, chunks."""
        return self.lin(F.silu(vector))[:, None].chunk(self.num_chunks, dim=-1)


class DoubleStreamBlock(nn.Module):
    """Text and image keep their own weights and meet in the attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h, self.mlp_dim = config.hidden_dim, int(config.hidden_dim * config.mlp_ratio)
        self.eps, self.attention = config.eps, attention
        self.img_attn = SelfAttention(config)
        self.txt_attn = SelfAttention(config)
        self.img_mlp = self._new_mlp(h)
        self.txt_mlp = self._new_mlp(h)

    def _new_mlp(self, h: int) -> nn.Sequential:
        return nn.Sequential(_linear(h, 2 * self.mlp_dim), nn.Identity(), _linear(self.mlp_dim, h))

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        rotation: Rotation,
        img_mod: tuple[Tensor, ...],
        txt_mod: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """Streams (b, l, h) in, streams out; rotation is that of [text, image]."""
        t = txt.shape[1]
        cos, sin = rotation
        img_heads = self.img_attn.heads(img, img_mod, (cos[t:], sin[t:]))
        txt_heads = self.txt_attn.heads(txt, txt_mod, (cos[:t], sin[:t]))
        q, k, v = (torch.cat(pair, dim=1) for pair in zip(txt_heads, img_heads, strict=True))
        out = self.attention(q, k, v)
        img = ops.gated_sum(img, img_mod[2], self.img_attn.proj, out[:, t:])
        txt = ops.gated_sum(txt, txt_mod[2], self.txt_attn.proj, out[:, :t])
        img = self._with_mlp(self.img_mlp, img, img_mod)
        txt = self._with_mlp(self.txt_mlp, txt, txt_mod)
        return img, ops.within_float16(txt)

    def _with_mlp(self, mlp: nn.Sequential, x: Tensor, mod: tuple[Tensor, ...]) -> Tensor:
        column = ops.modulated_columns(mlp[0], x, mod[3], mod[4], self.eps)
        inner = ops.swiglu(column, column.behind(self.mlp_dim), self.mlp_dim)
        return ops.gated_sum(x, mod[5], mlp[2], inner)


class SingleStreamBlock(nn.Module):
    """Attention and MLP in parallel on the joined stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h, mlp = config.hidden_dim, int(config.hidden_dim * config.mlp_ratio)
        self.eps, self.attention = config.eps, attention
        self.num_heads, self.hidden_dim, self.mlp_dim = config.num_attention_heads, h, mlp
        self.linear1 = _linear(h, 3 * h + 2 * mlp)
        self.linear2 = _linear(h + mlp, h)
        self.norm = QKNorm(config.attention_head_dim, config.eps)

    def forward(self, x: Tensor, rotation: Rotation, mod: tuple[Tensor, ...]) -> Tensor:
        """Stream (b, l, h) in, stream out."""
        qkv = ops.modulated_columns(self.linear1, x, mod[0], mod[1], self.eps)
        q, k, v = heads(qkv, self.norm, rotation, num_heads=self.num_heads)
        gate = qkv.behind(3 * self.hidden_dim)
        value = gate.behind(self.mlp_dim)
        joined = ops.swiglu(gate, value, self.mlp_dim, beside=self.attention(q, k, v))
        return ops.within_float16(ops.gated_sum(x, mod[2], self.linear2, joined))


class TimeEmbedding(nn.Module):
    """Linear, SiLU, linear over the sinusoid."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_layer = _linear(in_dim, hidden_dim)
        self.out_layer = _linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_dim) to (b, hidden_dim)."""
        return self.out_layer(F.silu(self.in_layer(x)))


class FinalLayer(nn.Module):
    """Last norm, modulated by [shift, scale], and the projection to channels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h = config.hidden_dim
        self.eps = config.eps
        self.linear = _linear(h, config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(h, 2 * h))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(b, l, h) to (b, l, channels)."""
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, dim=-1)
        return self.linear(ops.modulated(x, shift, scale, self.eps))


class Transformer(nn.Module):
    """klein's transformer of any size."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        h = config.hidden_dim
        self.config = config
        self.img_in = _linear(config.in_channels, h)
        self.txt_in = _linear(config.joint_attention_dim, h)
        self.time_in = TimeEmbedding(config.timestep_guidance_channels, h)
        self.double_stream_modulation_img = Modulation(h, 6)
        self.double_stream_modulation_txt = Modulation(h, 6)
        self.single_stream_modulation = Modulation(h, 3)
        self.double_blocks = nn.ModuleList(
            DoubleStreamBlock(config) for _ in range(config.num_layers)
        )
        self.single_blocks = nn.ModuleList(
            SingleStreamBlock(config) for _ in range(config.num_single_layers)
        )
        self.final_layer = FinalLayer(config)

    def use_attention(self, function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """Take another function than compute/attention.py's `attention` in all blocks."""
        for block in (*self.double_blocks, *self.single_blocks):
            block.attention = function

    def forward(
        self,
        latent_tokens: Tensor,
        timesteps: Tensor,
        text_tokens: Tensor,
        image_position_ids: Tensor,
        text_position_ids: Tensor,
    ) -> Tensor:
        """Velocity (b, l, 128) = noise - clean.

        latent_tokens (b, l, 128), references appended; timesteps (b,) from 0 to 1;
        text_tokens (b, t, context); position ids (l, 4) and (t, 4).
        """
        # bfloat16 rounds the timestep after multiplying by 1000, as diffusers does
        times = timesteps.to(latent_tokens.dtype) * 1000
        sinusoid = timestep_sinusoid(times, self.config.timestep_guidance_channels)
        vector = self.time_in(sinusoid.to(latent_tokens.dtype))
        ids = torch.cat((text_position_ids, image_position_ids))
        table = rope(ids, self.config.axes_dims_rope, self.config.rope_theta)
        rotation = table[0].to(latent_tokens.device), table[1].to(latent_tokens.device)
        img, txt = self.img_in(latent_tokens), self.txt_in(text_tokens)
        img_mod = self.double_stream_modulation_img(vector)
        txt_mod = self.double_stream_modulation_txt(vector)
        single_mod = self.single_stream_modulation(vector)
        with workspace.kept(ops.is_in_pieces(img)):
            for block in self.double_blocks:
                workspace.again()
                img, txt = block(img, txt, rotation, img_mod, txt_mod)
            joined = torch.cat((txt, img), dim=1)
            for block in self.single_blocks:
                workspace.again()
                joined = block(joined, rotation, single_mod)
        return self.final_layer(joined[:, txt.shape[1] :], vector)
