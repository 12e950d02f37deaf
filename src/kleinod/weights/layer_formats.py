"""In which number format each group of layers is stored, with counts. No torch in here.

A format is decided per tensor from its dtype and the scales beside it, never from a list of names:
the set of quantised layers differs between files of one family. Source: klein-facts B.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from kleinod.weights.headers import TensorEntry

# Tensors that only say how another one is stored.
AUXILIARY = (
    "weight_scale", "weight_scale_2", "weight_scale_inv", "input_scale", "scale_weight",
    "scale_input", "comfy_quant", "pre_quant_scale",
)  # fmt: skip
_MARKER = "scaled_fp8"
_FP8 = {"F8_E4M3": "FP8 e4m3", "F8_E5M2": "FP8 e5m2"}

_GROUPS = {
    "transformer": {
        "embedders": r"(img|txt|time|guidance|vector)_in\.|(x|context)_embedder\.|time_guid",
        "modulation": r"(double|single)_stream_modulation|.*_mod\.lin|.*\.modulation\.lin",
        "final layer": r"final_layer\.|norm_out\.|proj_out\.",
        "norms": r".*\.norm\.(query|key)_norm|.*\.norm_(added_)?[qk]\.",
        "double blocks": r"double_blocks\.|transformer_blocks\.",
        "single blocks": r"single_(transformer_)?blocks\.",
    },
    "text_encoder": {
        "token table": r"model\.embed_tokens|token_embd",
        "head": r"lm_head|output\.",
        "norms": r".*norm",
        "attention": r".*(self_attn|attn_)",
        "MLP": r".*(mlp|ffn)",
    },
    "autoencoder": {
        "quant convolutions": r"(encoder\.|decoder\.)?(post_)?quant_conv",
        "encoder": r"encoder\.",
        "decoder": r"decoder\.",
        "statistics": r"bn\.",
    },
}
_OTHER = "others"


@dataclass
class LayerGroup:
    """Tensors of one kind: how many in each format, parameters, stored bytes with scales."""

    name: str
    formats: Counter[str] = field(default_factory=Counter)
    parameters: int = 0
    num_bytes: int = 0


def layer_groups(component: str, entries: Mapping[str, TensorEntry]) -> list[LayerGroup]:
    """The groups of a component, in the model's order, those that are there."""
    names = _GROUPS.get(component, {})
    patterns = [(name, re.compile(pattern)) for name, pattern in names.items()]
    groups = {name: LayerGroup(name) for name in (*names, _OTHER)}
    for name, entry in entries.items():
        fitting = (group for group, pattern in patterns if pattern.match(name))
        group = groups[next(fitting, _OTHER)]
        group.num_bytes += entry.end - entry.begin
        if not is_auxiliary(name):
            stored = number_format(name, entries)
            group.formats[stored] += 1
            # two numbers in each byte
            group.parameters += entry.num_elements * (2 if stored == "NVFP4" else 1)
    return [group for group in groups.values() if group.formats]


def is_auxiliary(name: str) -> bool:
    """Whether a tensor only says how another one is stored."""
    return name.rpartition(".")[2] in AUXILIARY or name == _MARKER


def number_format(name: str, entries: Mapping[str, TensorEntry]) -> str:
    """How a weight is stored, in words."""
    dtype, stem = entries[name].dtype, name.removesuffix("weight")
    scale = entries.get(stem + "weight_scale") or entries.get(stem + "scale_weight")
    if dtype in _FP8:
        if stem + "weight_scale_inv" in entries or (scale and len(scale.shape) > 1):
            return _FP8[dtype] + ", a scale per block"
        return _FP8[dtype] + (", scaled" if scale else ", no scale")
    if dtype == "U8" and stem + "weight_scale_2" in entries:
        return "NVFP4"
    if dtype in ("I8", "U8") and scale:
        return f"{dtype}, scaled"
    return dtype


def format_notes(groups: list[LayerGroup]) -> tuple[str, ...]:
    """What looks wrong about the formats."""
    formats: Counter[str] = Counter()
    for group in groups:
        formats.update(group.formats)
    without = sum(n for stored, n in formats.items() if stored.endswith("no scale"))
    scaled = sum(n for stored, n in formats.items() if stored.endswith(("scaled", "per block")))
    if without and scaled:
        return (f"{without} FP8 weights have no scale, {scaled} others have one: a broken file?",)
    if without:
        return (f"{without} FP8 weights have no scale: a plain cast, colours may be off",)
    return ()
