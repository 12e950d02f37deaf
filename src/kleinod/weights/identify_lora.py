"""What a LoRA file is for, and under whose conventions its names are. No torch in here.

A module's adapter comes in parts: `lora_A`/`lora_down` (rank x in), `lora_B`/`lora_up` (out x
rank); LoKr's `lokr_w1`, `lokr_w2` (a Kronecker product, each maybe in two factors); LoHa: `hada_*`.
The base is told by the width its modules read, by FLUX.2's gated MLPs (6 widths out, FLUX.1 has 4)
and fused single blocks (9, FLUX.1 has 7), and by how many blocks there are. Source: field report 5.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from kleinod.weights.headers import TensorEntry

Shapes = dict[str, tuple[int, ...]]

_PART = re.compile(
    r"\.(lora_A|lora_B|lora_down|lora_up|lokr_w[12](?:_[ab])?|lokr_t2|hada_[wt][12](?:_[ab])?"
    r"|dora_scale|lora_magnitude_vector|alpha|diff|diff_b|set_weight)(?:\.default)?(?:\.weight)?$"
)
_PREFIXES = (
    "base_model.model.", "diffusion_model.", "transformer.", "lora_unet_", "lora_transformer_",
    "lycoris_",
)  # fmt: skip
_BLOCK = re.compile(
    r"(double_blocks|single_blocks|single_transformer_blocks|transformer_blocks)[._](\d+)[._](.+)"
)
# How many widths a module reads and writes in FLUX.2, then in FLUX.1 (None: it has no such module).
_MODULES: dict[str, tuple[tuple[int, int] | None, tuple[int, int] | None]] = {
    "attn_qkv": ((1, 3), (1, 3)),
    "attn_proj": ((1, 1), (1, 1)),
    "mlp_0": ((1, 6), (1, 4)),
    "mlp_2": ((3, 1), (4, 1)),
    "linear1": ((1, 9), (1, 7)),
    "linear2": ((4, 1), (5, 1)),
    "ff_linear_in": ((1, 6), None),
    "ff_linear_out": ((3, 1), None),
    "attn_to_qkv_mlp_proj": ((1, 9), None),
    "attn_to_out": ((4, 1), None),
    "attn_to_out_0": ((1, 1), (1, 1)),
    "attn_to_q": ((1, 1), (1, 1)),
    "mod_lin": (None, (1, 6)),
    "modulation_lin": (None, (1, 3)),
    "ff_net_0_proj": (None, (1, 4)),
    "ff_net_2": (None, (4, 1)),
    "proj_mlp": (None, (1, 4)),
    "proj_out": (None, (5, 1)),
    "norm1_linear": (None, (1, 6)),
    "norm_linear": (None, (1, 3)),
}
_ALIKE = {
    "img_": "", "txt_": "", "ff_context_": "ff_", "norm1_context_": "norm1_",
    "attn_to_k": "attn_to_q", "attn_to_v": "attn_to_q", "attn_add_q_proj": "attn_to_q",
    "attn_add_k_proj": "attn_to_q", "attn_add_v_proj": "attn_to_q",
    "attn_to_add_out": "attn_to_out_0",
}  # fmt: skip
_SIZES = {3072: "4B", 4096: "9B"}
_DEV_WIDTH = 6144


@dataclass(frozen=True)
class LoraFinding:
    """Base model, naming convention and shape of an adapter file."""

    base: str
    size: str | None
    convention: str
    num_modules: int
    rank: int
    notes: tuple[str, ...]


def recognised(tensors: Mapping[str, TensorEntry]) -> LoraFinding | None:
    """The finding, or None if the tensors are no adapter."""
    adapters = _adapters(tensors)
    if not adapters:
        return None
    base, size, notes = _base(adapters)
    kinds = _kinds(adapters)
    ranks = sorted({_rank(parts) for parts in adapters.values()} - {0})
    if len(ranks) > 1:
        notes += (f"ranks from {ranks[0]} to {ranks[-1]}",)
    if any(re.search(r"^diffusion_model\.double_blocks\.\d+\.\w+_qkv$", stem) for stem in adapters):
        notes += ("names like img_attn_qkv are malformed; img_attn.qkv is meant",)
    if any("alpha" in parts for parts in adapters.values()):
        notes += ("has alpha: the scale is alpha / rank",)
    convention = f"{kinds}, {_convention(adapters)}"
    return LoraFinding(base, size, convention, len(adapters), ranks[-1] if ranks else 0, notes)


def _adapters(tensors: Mapping[str, TensorEntry]) -> dict[str, Shapes]:
    """Shapes of the parts by module and part; empty if the file holds other things."""
    adapters: dict[str, Shapes] = {}
    for name, entry in tensors.items():
        match = _PART.search(name)
        if match:
            part = {"lora_down": "lora_A", "lora_up": "lora_B"}.get(match[1], match[1])
            adapters.setdefault(name[: match.start()], {})[part] = entry.shape
    has_weights = any(parts.keys() - {"alpha", "diff_b"} for parts in adapters.values())
    # a model with a few such tensors beside its own is a model
    is_most = 2 * sum(map(len, adapters.values())) > len(tensors)
    return adapters if has_weights and is_most else {}


def _kinds(adapters: Mapping[str, Shapes]) -> str:
    parts = {part for shapes in adapters.values() for part in shapes}
    found = [
        kind
        for kind, start in (("LoRA", "lora_A"), ("LoKr", "lokr_"), ("LoHa", "hada_"))
        if any(part.startswith(start) for part in parts)
    ]
    if parts & {"dora_scale", "lora_magnitude_vector"}:
        found.append("DoRA")
    if parts & {"diff", "set_weight"}:
        found.append("whole differences")
    return " + ".join(found) or "adapter"


def _convention(adapters: Mapping[str, Shapes]) -> str:
    stem = next((s for s in adapters if _BLOCK.search(s)), next(iter(adapters)))
    is_bfl = "double_blocks" in stem or "single_blocks" in stem
    theirs = "BFL's names" if is_bfl else "diffusers' names"
    if stem.startswith("lora_unet_"):
        return "Kohya (lora_unet_)"
    if stem.startswith("lora_transformer_"):
        return "OneTrainer (lora_transformer_)"
    if stem.startswith("lycoris_"):
        return "LyCORIS (lycoris_)"
    prefix = next((p for p in _PREFIXES if stem.startswith(p)), "")
    return f"{theirs} under {prefix}" if prefix else f"{theirs}, bare"


def _base(adapters: Mapping[str, Shapes]) -> tuple[str, str | None, tuple[str, ...]]:
    """Base family, its size, and what is not sure."""
    contexts = {
        _sizes(p)[0] for stem, p in adapters.items() if re.search(r"attn2_to_k|attn2\.to_k", stem)
    }
    if contexts:
        known = {2048: "SDXL", 1024: "SD 2", 768: "SD 1.5"}
        return next((known[c] for c in contexts if c in known), "Stable Diffusion"), None, ()
    flux2, flux1, blocks = _votes(adapters)
    if not flux2 and not flux1:
        return "an unknown base", None, ("no module of it is one of FLUX.2's",)
    width = max(flux2 or flux1, key=(flux2 or flux1).count)
    is_deep = width == 3072 and (blocks["double"] > 5 or blocks["single"] > 20)
    if not flux2 or (flux1 and is_deep):
        return "FLUX.1", None, ()
    if width == _DEV_WIDTH:
        return "FLUX.2 dev", None, ()
    notes: tuple[str, ...] = () if width in _SIZES else (f"for a klein of width {width}",)
    if width == 3072 and flux1 and not (blocks["double"] == 5 or blocks["single"] == 20):
        notes = ("its modules are alike in klein 4B and FLUX.1; taken as klein's",)
    return "FLUX.2 klein", _SIZES.get(width), notes


def _votes(adapters: Mapping[str, Shapes]) -> tuple[list[int], list[int], dict[str, int]]:
    """Widths that modules would have in FLUX.2 and in FLUX.1, and the number of blocks.

    A module that cannot be one family's takes away all of that family's votes.
    """
    votes: tuple[list[int], list[int]] = ([], [])
    ruled_out = [False, False]
    blocks = {"double": 0, "single": 0}
    for stem, parts in adapters.items():
        match = _BLOCK.search(stem)
        if not match:
            ruled_out[1] |= "stream_modulation" in stem
            continue
        kind = "single" if match[1].startswith("single") else "double"
        blocks[kind] = max(blocks[kind], int(match[2]) + 1)
        read, written = _sizes(parts)
        for family, factors in enumerate(_MODULES.get(_module(match[3]), (None, None))):
            width = 0 if factors is None else _width(read, written, factors)
            if width:
                votes[family].append(width)
            elif _module(match[3]) in _MODULES:
                ruled_out[family] = True
    flux2, flux1 = ([] if out else v for v, out in zip(votes, ruled_out, strict=True))
    return flux2, flux1, blocks


def _module(rest: str) -> str:
    """The module's name within its block, both streams alike."""
    name = rest.replace(".", "_")
    for start, instead in _ALIKE.items():
        if name.startswith(start):
            name = instead + name.removeprefix(start)
    return name


def _width(read: int, written: int, factors: tuple[int, int]) -> int:
    """The model's width if a module reads and writes so many widths; 0 if it cannot."""
    widths = {size / by for size, by in zip((read, written), factors, strict=True) if size}
    return int(widths.pop()) if len(widths) == 1 else 0


def _sizes(parts: Shapes) -> tuple[int, int]:
    """How many numbers the adapted module reads and writes; 0 where no part tells."""
    if "lora_A" in parts or "lora_B" in parts:
        return _at(parts.get("lora_A"), 1), _at(parts.get("lora_B"), 0)
    if "diff" in parts:
        return _at(parts["diff"], 1), _at(parts["diff"], 0)
    if any(part.startswith("hada_") for part in parts):
        return _at(parts.get("hada_w1_b"), 1), _at(parts.get("hada_w1_a"), 0)
    factors = [_factor(parts, "lokr_w1"), _factor(parts, "lokr_w2")]
    return factors[0][1] * factors[1][1], factors[0][0] * factors[1][0]


def _factor(parts: Shapes, name: str) -> tuple[int, int]:
    """Rows and columns of one factor of a Kronecker product, itself maybe a product."""
    if name in parts:
        return _at(parts[name], 0), _at(parts[name], 1)
    return _at(parts.get(name + "_a"), 0), _at(parts.get(name + "_b"), 1)


def _rank(parts: Shapes) -> int:
    for part in ("lora_A", "hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
        if part in parts:
            return _at(parts[part], 0)
    return 0


def _at(shape: tuple[int, ...] | None, axis: int) -> int:
    return shape[axis] if shape and len(shape) > axis else 0
