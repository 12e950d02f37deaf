"""Qwen3 up to the last layer that is read: prompt embeddings, not words.

Hidden states after blocks 9, 18 and 27, without a final norm, side by side. No vocabulary head.
Attribute names are those of the published files. Source: klein-facts D.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute import ops, workspace
from kleinod.config import TextEncoderConfig


class RMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalise x (…, dim)."""
        return ops.rms_norm(x, self.weight, self.eps)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class Attention(nn.Module):
    """Grouped-query attention with normalised queries and keys."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        d, dim = config.head_dim, config.hidden_size
        self.head_dim = d
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(dim, config.num_attention_heads * d, bias=False)
        self.k_proj = nn.Linear(dim, config.num_key_value_heads * d, bias=False)
        self.v_proj = nn.Linear(dim, config.num_key_value_heads * d, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * d, dim, bias=False)
        self.q_norm = RMSNorm(d, config.rms_norm_eps)
        self.k_norm = RMSNorm(d, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """Heads side by side (b, t, n * d), before o_proj, of x (b, t, h).

        mask (b, 1, t, s) is True where a query may look; the first s tokens have keys and values.
        """
        seen = mask.shape[-1]
        words = x if seen == x.shape[1] else x[:, :seen]
        q, k, v = (
            ops.product(proj, tokens).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for proj, tokens in ((self.q_proj, x), (self.k_proj, words), (self.v_proj, words))
        )
        q, k = _rotate(self.q_norm(q), cos, sin), _rotate(self.k_norm(k), cos[:seen], sin[:seen])
        k, v = (y.repeat_interleave(self.groups, dim=1) for y in (k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)


def num_seen(attention_mask: Tensor) -> int:
    """How many tokens come before the padding that follows every prompt: nobody looks at that.

    In whole pieces of 64, so that the others' sums are added in the same order, to the same bits.
    On a GPU all, because to ask would stop it; and in a graph, which has one length.
    """
    length = attention_mask.shape[1]
    if torch.compiler.is_compiling() or attention_mask.device.type != "cpu":
        return length
    return min(length, 64 * (int(attention_mask.any(0).nonzero().amax()) // 64 + 1))


class MLP(nn.Module):
    """SwiGLU with three matrices."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        dim, inner = config.hidden_size, config.intermediate_size
        self.inner = inner
        self.gate_proj = nn.Linear(dim, inner, bias=False)
        self.up_proj = nn.Linear(dim, inner, bias=False)
        self.down_proj = nn.Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(b, t, h) to what down_proj reads (b, t, inner)."""
        gate, value = ops.columns(self.gate_proj, x), ops.columns(self.up_proj, x)
        return ops.swiglu(gate, value, self.inner)


class Layer(nn.Module):
    """One pre-norm block."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        """(b, t, h) to (b, t, h)."""
        out = self.self_attn(self.input_layernorm(x), cos, sin, mask)
        x = ops.gated_sum(x, None, self.self_attn.o_proj, out)
        inner = self.mlp(self.post_attention_layernorm(x))
        return ops.gated_sum(x, None, self.mlp.down_proj, inner)


class TextEncoder(nn.Module):
    """The first max(layers) blocks of Qwen3."""

    def __init__(self, config: TextEncoderConfig, layers: tuple[int, ...] = (9, 18, 27)) -> None:
        super().__init__()
        self.config, self.layers_read = config, tuple(layers)
        self.model = nn.Module()
        # nn.Embedding's own normal_ costs a second of imports when it runs on the meta device
        table = nn.init.uniform_(torch.empty(config.vocab_size, config.hidden_size), -1, 1)
        self.model.embed_tokens = nn.Embedding(*table.shape, _weight=table)
        self.model.layers = nn.ModuleList(Layer(config) for _ in range(max(layers)))

    def forward(self, token_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """prompt_embeds (b, t, 3h) of token_ids (b, t) and their mask (1 word, 0 padding)."""
        x = self.model.embed_tokens(token_ids)
        cos, sin = self._rotation(token_ids.shape[1], x)
        length = token_ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        mask = causal & attention_mask.bool()[:, None, None, :]
        mask = mask[..., : num_seen(attention_mask)]
        read = []
        with workspace.kept(ops.is_in_pieces(x)):
            for index, layer in enumerate(self.model.layers, start=1):
                workspace.again()
                x = layer(x, cos, sin, mask)
                if index in self.layers_read:
                    read.append(x)
        return torch.cat(read, dim=-1)

    def _rotation(self, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        dim = self.config.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32, device=like.device) / dim
        frequencies = 1.0 / self.config.rope_theta**exponents
        positions = torch.arange(length, dtype=torch.float32, device=like.device)
        angles = (positions[:, None] * frequencies).repeat(1, 2)
        return angles.cos().to(like.dtype), angles.sin().to(like.dtype)
