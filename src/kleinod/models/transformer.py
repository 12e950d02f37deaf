"""The rectified-flow transformer: velocity = transformer(latents, time, text).

Module attributes are the keys of the published single files. Sequence order is
[text, image, references]; modulation is computed once and shared by all blocks. No biases.
Source of the maths: klein-facts A.4 (the published reference code and diffusers 0.42.1).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.config import TransformerConfig
from kleinod.models.ops import rms_norm, within_float16


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
    if x.device.type == "cpu" and not torch.is_grad_enabled():
        # the same products and sums in a quarter of the passes; compilers know no complex numbers
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)))
        turned = pairs * torch.complex(cos, sin)[:, None]
        return torch.view_as_real(turned).flatten(-2).to(x.dtype)
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


def _swiglu(x: Tensor) -> Tensor:
    gate, value = x.chunk(2, dim=-1)
    return F.silu(gate) * value


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (…, dim)."""
        return rms_norm(x, self.scale, self.eps)


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
        self.num_heads = config.num_attention_heads
        self.qkv = _linear(h, 3 * h)
        self.norm = QKNorm(config.attention_head_dim, config.eps)
        self.proj = _linear(h, h)

    def heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (b, l, n, d), normalised before the rotation."""
        return split_heads(self.qkv(x), self.norm, self.num_heads)


def split_heads(qkv: Tensor, norm: QKNorm, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (b, l, 3h) into q, k, v (b, l, n, d) and normalise q and k."""
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return norm.query_norm(q), norm.key_norm(k), v


def attention(q: Tensor, k: Tensor, v: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Full attention over (b, l, n, d) after rotating q and k; result (b, l, n*d)."""
    q, k = apply_rope(q, *rotation), apply_rope(k, *rotation)
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


class Modulation(nn.Module):
    """Chunks of (shift, scale, gate), each (b, 1, h), from the time vector (b, h)."""

    def __init__(self, dim: int, num_chunks: int) -> None:
        super().__init__()
        self.num_chunks = num_chunks
        self.lin = _linear(dim, num_chunks * dim)

    def forward(self, vector: Tensor) -> tuple[Tensor, ...]:
        """SiLU, one linear, chunks."""
        return self.lin(F.silu(vector))[:, None].chunk(self.num_chunks, dim=-1)


class _Modulated(nn.Module):
    """LayerNorm without affine, then (1 + scale) x + shift."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def modulated(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return (1 + scale) * F.layer_norm(x, x.shape[-1:], eps=self.eps) + shift


class DoubleStreamBlock(_Modulated):
    """Text and image keep their own weights and meet in the attention."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.eps)
        h, mlp = config.hidden_dim, int(config.hidden_dim * config.mlp_ratio)
        self.img_attn = SelfAttention(config)
        self.txt_attn = SelfAttention(config)
        self.img_mlp = nn.Sequential(_linear(h, 2 * mlp), nn.Identity(), _linear(mlp, h))
        self.txt_mlp = nn.Sequential(_linear(h, 2 * mlp), nn.Identity(), _linear(mlp, h))

    def forward(
        self,
        img: Tensor,
        txt: Tensor,
        rotation: tuple[Tensor, Tensor],
        img_mod: tuple[Tensor, ...],
        txt_mod: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """Streams (b, l, h) in, streams out."""
        img_heads = self.img_attn.heads(self.modulated(img, img_mod[0], img_mod[1]))
        txt_heads = self.txt_attn.heads(self.modulated(txt, txt_mod[0], txt_mod[1]))
        joint = [torch.cat(pair, dim=1) for pair in zip(txt_heads, img_heads, strict=True)]
        out = attention(joint[0], joint[1], joint[2], rotation)
        txt_out, img_out = out[:, : txt.shape[1]], out[:, txt.shape[1] :]
        img = img + img_mod[2] * self.img_attn.proj(img_out)
        txt = txt + txt_mod[2] * self.txt_attn.proj(txt_out)
        img = img + img_mod[5] * self._mlp(self.img_mlp, img, img_mod)
        txt = txt + txt_mod[5] * self._mlp(self.txt_mlp, txt, txt_mod)
        return img, within_float16(txt)

    def _mlp(self, mlp: nn.Sequential, x: Tensor, mod: tuple[Tensor, ...]) -> Tensor:
        return mlp[2](_swiglu(mlp[0](self.modulated(x, mod[3], mod[4]))))


class SingleStreamBlock(_Modulated):
    """Attention and MLP in parallel on the joined stream."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.eps)
        h, mlp = config.hidden_dim, int(config.hidden_dim * config.mlp_ratio)
        self.num_heads, self.hidden_dim = config.num_attention_heads, h
        self.linear1 = _linear(h, 3 * h + 2 * mlp)
        self.linear2 = _linear(h + mlp, h)
        self.norm = QKNorm(config.attention_head_dim, config.eps)

    def forward(
        self, x: Tensor, rotation: tuple[Tensor, Tensor], mod: tuple[Tensor, ...]
    ) -> Tensor:
        """Stream (b, l, h) in, stream out."""
        fused = self.linear1(self.modulated(x, mod[0], mod[1]))
        qkv, mlp = fused[..., : 3 * self.hidden_dim], fused[..., 3 * self.hidden_dim :]
        out = attention(*split_heads(qkv, self.norm, self.num_heads), rotation)
        return within_float16(x + mod[2] * self.linear2(torch.cat((out, _swiglu(mlp)), dim=-1)))


class TimeEmbedding(nn.Module):
    """Linear, SiLU, linear over the sinusoid."""

    def __init__(self, in_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.in_layer = _linear(in_dim, hidden_dim)
        self.out_layer = _linear(hidden_dim, hidden_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in_dim) to (b, hidden_dim)."""
        return self.out_layer(F.silu(self.in_layer(x)))


class FinalLayer(_Modulated):
    """Last norm, modulated by [shift, scale], and the projection to channels."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__(config.eps)
        h = config.hidden_dim
        self.linear = _linear(h, config.in_channels)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), _linear(h, 2 * h))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """(b, l, h) to (b, l, channels)."""
        shift, scale = self.adaLN_modulation(vector)[:, None].chunk(2, dim=-1)
        return self.linear(self.modulated(x, shift, scale))


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
        for block in self.double_blocks:
            img, txt = block(img, txt, rotation, img_mod, txt_mod)
        joined = torch.cat((txt, img), dim=1)
        single_mod = self.single_stream_modulation(vector)
        for block in self.single_blocks:
            joined = block(joined, rotation, single_mod)
        return self.final_layer(joined[:, txt.shape[1] :], vector)
