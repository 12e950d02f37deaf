"""The names of one tensor in the layouts it is published in, and what happens between them.

One table for each component, read in both directions: `to_bfl` and `to_diffusers`. A row is the
stem of a module; what follows it (`.weight`, `.bias`) is kept. Names without a row are equal in
both layouts. A result is a tuple of parts that are joined along the rows, so that nothing is
copied before it is known where the weights will live. Source: klein-facts A.3, C.2.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import overload

from torch import Tensor

from kleinod.quantization.stored import SwappedHalves, Weight

Parts = tuple[Tensor, ...]
WeightParts = tuple[Weight, ...]


@dataclass(frozen=True)
class Row:
    """{n}, {m}: numbers that stay; {r}: a level counted from the other end (last - n).

    transform: "rename"; "fuse" (q, k, v one above the other); "swap" (the halves change places);
    "flatten" (a 1x1 convolution is a linear there).
    """

    bfl: str
    diffusers: tuple[str, ...]
    transform: str = "rename"


_DOUBLE, _THEIR_DOUBLE = "double_blocks.{n}.", "transformer_blocks.{n}."
_SINGLE, _THEIR_SINGLE = "single_blocks.{n}.", "single_transformer_blocks.{n}."


def _renamed(prefix: str, their_prefix: str, names: Mapping[str, str]) -> tuple[Row, ...]:
    return tuple(Row(prefix + ours, (their_prefix + theirs,)) for ours, theirs in names.items())


def _qkv(bfl: str, names: tuple[str, str, str]) -> Row:
    return Row(_DOUBLE + bfl, tuple(_THEIR_DOUBLE + "attn." + name for name in names), "fuse")


TRANSFORMER = (
    *_renamed(
        "",
        "",
        {
            "img_in": "x_embedder",
            "txt_in": "context_embedder",
            "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
            "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
            "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
            "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
            "single_stream_modulation.lin": "single_stream_modulation.linear",
            "final_layer.linear": "proj_out",
        },
    ),
    # rows are [shift, scale] at BFL, [scale, shift] in diffusers
    Row("final_layer.adaLN_modulation.1", ("norm_out.linear",), "swap"),
    _qkv("img_attn.qkv", ("to_q", "to_k", "to_v")),
    _qkv("txt_attn.qkv", ("add_q_proj", "add_k_proj", "add_v_proj")),
    *_renamed(
        _DOUBLE,
        _THEIR_DOUBLE,
        {
            "img_attn.proj": "attn.to_out.0",
            "txt_attn.proj": "attn.to_add_out",
            "img_attn.norm.query_norm.scale": "attn.norm_q.weight",
            "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
            "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
            "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
            "img_mlp.0": "ff.linear_in",
            "img_mlp.2": "ff.linear_out",
            "txt_mlp.0": "ff_context.linear_in",
            "txt_mlp.2": "ff_context.linear_out",
        },
    ),
    *_renamed(
        _SINGLE,
        _THEIR_SINGLE,
        {
            "linear1": "attn.to_qkv_mlp_proj",
            "linear2": "attn.to_out",
            "norm.query_norm.scale": "attn.norm_q.weight",
            "norm.key_norm.scale": "attn.norm_k.weight",
        },
    ),
)


def _autoencoder_side(side: str) -> tuple[Row, ...]:
    attention = f"{side}.mid_block.attentions.0."
    linears = {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
    names = {
        "mid.block_1": "mid_block.resnets.0",
        "mid.block_2": "mid_block.resnets.1",
        "mid.attn_1.norm": "mid_block.attentions.0.group_norm",
        "norm_out": "conv_norm_out",
    }
    return (
        *_renamed(f"{side}.", f"{side}.", names),
        *(
            Row(f"{side}.mid.attn_1.{ours}", (attention + theirs,), "flatten")
            for ours, theirs in linears.items()
        ),
    )


AUTOENCODER = (
    *_renamed(
        "",
        "",
        {
            "encoder.quant_conv": "quant_conv",
            "decoder.post_quant_conv": "post_quant_conv",
            "encoder.down.{n}.block.{m}.nin_shortcut": (
                "encoder.down_blocks.{n}.resnets.{m}.conv_shortcut"
            ),
            "decoder.up.{n}.block.{m}.nin_shortcut": (
                "decoder.up_blocks.{r}.resnets.{m}.conv_shortcut"
            ),
            "encoder.down.{n}.downsample.conv": "encoder.down_blocks.{n}.downsamplers.0.conv",
            "decoder.up.{n}.upsample.conv": "decoder.up_blocks.{r}.upsamplers.0.conv",
            "encoder.down.{n}.block.{m}": "encoder.down_blocks.{n}.resnets.{m}",
            "decoder.up.{n}.block.{m}": "decoder.up_blocks.{r}.resnets.{m}",
        },
    ),
    *_autoencoder_side("encoder"),
    *_autoencoder_side("decoder"),
)


# llama.cpp's names of a Qwen3 model ("diffusers" here) and those of our modules
TEXT_ENCODER_GGUF = (
    Row("model.embed_tokens", ("token_embd",)),
    Row("model.norm", ("output_norm",)),
    Row("lm_head", ("output",)),
    *_renamed(
        "model.layers.{n}.",
        "blk.{n}.",
        {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "self_attn.q_norm": "attn_q_norm",
            "self_attn.k_norm": "attn_k_norm",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        },
    ),
)


@overload
def to_bfl(tensors: Mapping[str, Tensor], table: tuple[Row, ...]) -> dict[str, Parts]: ...


@overload
def to_bfl(tensors: Mapping[str, Weight], table: tuple[Row, ...]) -> dict[str, WeightParts]: ...


def to_bfl(tensors: Mapping[str, Weight], table: tuple[Row, ...]) -> Mapping[str, WeightParts]:
    """Weights under BFL's names; names that are BFL's already stay."""
    result: dict[str, WeightParts] = {}
    fused: dict[str, dict[int, str]] = {}
    last = _last_level(tensors)
    for name, tensor in tensors.items():
        hit = _hit(name, table, "diffusers")
        if hit is None:
            result[name] = (tensor,)
        elif hit.row.transform == "fuse":
            fused.setdefault(hit.rendered(hit.row.bfl, last), {})[hit.column] = name
        else:
            result[hit.rendered(hit.row.bfl, last)] = _from_diffusers(tensor, hit.row.transform)
    for target, names in fused.items():
        if len(names) == 3:
            result[target] = tuple(tensors[names[column]] for column in range(3))
        else:  # they keep their own names, which the strict check then reports
            result |= {name: (tensors[name],) for name in names.values()}
    return result


def to_diffusers(tensors: Mapping[str, Tensor], table: tuple[Row, ...]) -> dict[str, Parts]:
    """Tensors under diffusers' names; names that are diffusers' already stay."""
    result: dict[str, Parts] = {}
    last = _last_level(tensors)
    for name, tensor in tensors.items():
        hit = _hit(name, table, "bfl")
        if hit is None:
            result[name] = (tensor,)
            continue
        targets = [hit.rendered(template, last) for template in hit.row.diffusers]
        if hit.row.transform == "fuse":
            # a scale of the fused weight (no dimension) holds for each third
            thirds = tensor.chunk(3) if tensor.dim() else (tensor,) * 3
            result |= {name: (third,) for name, third in zip(targets, thirds, strict=True)}
        else:
            result[targets[0]] = _transformed(tensor, hit.row.transform, "diffusers")
    return result


def _from_diffusers(weight: Weight, transform: str) -> WeightParts:
    if isinstance(weight, Tensor):
        return _transformed(weight, transform, "bfl")
    assert transform != "flatten", "an autoencoder's weights are expanded before"
    return (SwappedHalves(weight) if transform == "swap" else weight,)


def _transformed(tensor: Tensor, transform: str, target: str) -> Parts:
    if transform == "swap" and tensor.dim():
        first, second = tensor.chunk(2)
        return second, first
    if transform == "flatten" and target == "bfl" and tensor.dim() == 2:
        return (tensor[:, :, None, None],)
    if transform == "flatten" and target == "diffusers" and tensor.dim() == 4:
        return (tensor.flatten(1),)
    return (tensor,)


@dataclass(frozen=True)
class _Hit:
    row: Row
    column: int
    numbers: dict[str, str]
    rest: str

    def rendered(self, template: str, last: int) -> str:
        numbers = dict(self.numbers)
        if "r" in numbers:
            numbers["n"] = str(last - int(numbers["r"]))
        elif "n" in numbers:
            numbers["r"] = str(last - int(numbers["n"]))
        return template.format(**numbers) + self.rest


def _hit(name: str, table: tuple[Row, ...], layout: str) -> _Hit | None:
    """The first row that fits a name of a layout."""
    for row in table:
        for column, template in enumerate((row.bfl,) if layout == "bfl" else row.diffusers):
            match = _pattern(template).fullmatch(name)
            if match:
                numbers = match.groupdict()
                return _Hit(row, column, numbers, numbers.pop("rest") or "")
    return None


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """{n} becomes a group of digits; at most two further names may follow the stem."""
    stem = re.sub(r"\\\{(\w)\\\}", r"(?P<\1>\\d+)", re.escape(template))
    return re.compile(stem + r"(?P<rest>\.\w+(?:\.\w+)?)?")


def _last_level(tensors: Mapping[str, object]) -> int:
    levels = (re.match(r"decoder\.up(?:_blocks)?\.(\d+)\.", name) for name in tensors)
    return max((int(level[1]) for level in levels if level), default=0)
