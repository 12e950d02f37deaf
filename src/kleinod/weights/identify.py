"""What a set of tensors is, from names and shapes alone. Knows no files, needs no torch.

klein's three variants have the same names and shapes, so the variant is never found here.
Source of names and sizes: klein-facts A.1-A.3, C, D; other families by names that only they have.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from kleinod.weights import identify_lora, prefixes
from kleinod.weights.headers import TensorEntry
from kleinod.weights.prefixes import AUTOENCODER as AUTOENCODER
from kleinod.weights.prefixes import TEXT_ENCODER as TEXT_ENCODER
from kleinod.weights.prefixes import TRANSFORMER as TRANSFORMER

KLEIN, DEV, QWEN3, FLUX2 = "FLUX.2 klein", "FLUX.2 dev", "Qwen3", "FLUX.2"
LORA, CHECKPOINT, UNET, UNKNOWN = "LoRA", "checkpoint", "U-Net", "unknown"
DECODER_ONLY = "decoder only: text to picture works, reference pictures need the encoder"
# before the tensors of models that are only named, not read
_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

# (width, double blocks, single blocks): size
_KLEIN_SIZES = {(3072, 5, 20): "4B", (4096, 8, 24): "9B"}
_DEV_WIDTH = 6144
# (width, layers): size
_QWEN3_SIZES = {
    (1024, 28): "0.6B", (2048, 28): "1.7B", (2560, 36): "4B",
    (4096, 36): "8B", (5120, 40): "14B", (5120, 64): "32B",
}  # fmt: skip
# which text encoder belongs to which klein, by the size of either
ENCODER_OF = {"4B": "4B", "9B": "8B"}


@dataclass(frozen=True)
class Finding:
    """What the tensors are. `numbers` are widths and counts by name; `notes` are sentences."""

    component: str
    family: str = "unknown"
    size: str | None = None
    layout: str = "unknown"
    numbers: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def is_klein(self) -> bool:
        """Whether kleinod can put it to use."""
        return self.family in (KLEIN, QWEN3, FLUX2) and self.component != LORA

    @property
    def title(self) -> str:
        """In a few words."""
        if self.component == UNKNOWN:
            return "tensors of no kind that is known here"
        size = f" {self.size}" if self.size else ""
        return f"{self.family}{size} {self.component.replace('_', ' ')}"


class Names:
    """Tensors by their own names: without the prefixes that programs put before them."""

    def __init__(self, tensors: Mapping[str, TensorEntry]) -> None:
        found = prefixes.split(tensors)
        own = {name: short for names in found.own.values() for name, short in names.items()}
        first = (p for p in _PREFIXES if any(n.startswith(p) for n in found.unknown))
        self.prefix = next(first, "")
        own |= {name: name.removeprefix(self.prefix) for name in found.unknown}
        self.entries = {own[name]: entry for name, entry in tensors.items() if name in own}
        self._text = "\n".join(self.entries)

    def has(self, pattern: str) -> bool:
        """Whether a name begins as the pattern says."""
        return re.search("^(?:" + pattern + ")", self._text, re.MULTILINE) is not None

    def shape(self, *names: str) -> tuple[int, ...]:
        """The shape of the first of these that is there; empty if none is."""
        entry = next((self.entries[name] for name in names if name in self.entries), None)
        return () if entry is None else entry.shape

    def size(self, axis: int, *names: str) -> int:
        """One size of it, 0 if there is none."""
        shape = self.shape(*names)
        return shape[axis] if len(shape) > axis else 0

    def count(self, prefix: str) -> int:
        """How many numbers follow a prefix."""
        return len(set(re.findall("^" + prefix + r"\.(\d+)\.", self._text, re.MULTILINE)))


def recognise(tensors: Mapping[str, TensorEntry]) -> Finding:
    """What the tensors are."""
    lora = identify_lora.recognised(tensors)
    if lora is not None:
        numbers = {"num_modules": lora.num_modules, "rank": lora.rank}
        return Finding(LORA, lora.base, lora.size, lora.convention, numbers, lora.notes)
    parts = checkpoint_parts(tensors)
    if len(parts) > 1:
        return _checkpoint(parts)
    return _single(Names(tensors))


def _single(whole: Names) -> Finding:
    """What the tensors of one component are."""
    for recogniser in (_stable_diffusion_checkpoint, _flux2_transformer, _qwen3, _autoencoder):
        finding = recogniser(whole)
        if finding is not None:
            return finding
    return _other(whole) or Finding(UNKNOWN)


def checkpoint_parts(
    tensors: Mapping[str, TensorEntry],
) -> dict[str, dict[str, TensorEntry]]:
    """The tensors of each component of a file of several, by the file's names; else nothing."""
    found = prefixes.split(tensors)
    if not found.is_checkpoint:
        return {}
    return {
        component: {name: tensors[name] for name in found.own[component]}
        for component in prefixes.COMPONENTS
        if component in found.own
    }


def _checkpoint(parts: Mapping[str, Mapping[str, TensorEntry]]) -> Finding:
    """A file of several components of a FLUX model, as ComfyUI saves it."""
    findings = {component: _single(Names(entries)) for component, entries in parts.items()}
    main = findings.get(TRANSFORMER) or next(iter(findings.values()))
    words = [component.replace("_", " ") for component in findings]
    note = f"holds {', '.join(words[:-1])} and {words[-1]}"
    return replace(main, component=CHECKPOINT, notes=(note, *main.notes))


def _stable_diffusion_checkpoint(names: Names) -> Finding | None:
    """A file of several components, as Stable Diffusion was published."""
    if names.prefix and names.has(r"input_blocks\.") and names.has(r"(decoder|cond|first)"):
        return Finding(CHECKPOINT, _stable_diffusion(names), layout="CompVis")
    return None


def _stable_diffusion(names: Names) -> str:
    """By what the cross attention reads."""
    keys = (name for name in names.entries if name.endswith("attn2.to_k.weight"))
    context = {names.size(1, name) for name in keys}
    known = {2048: "SDXL", 1280: "SDXL refiner", 1024: "SD 2", 768: "SD 1.5"}
    return next((known[size] for size in sorted(context) if size in known), "Stable Diffusion")


def _flux2_transformer(names: Names) -> Finding | None:
    if not names.has(r"double_stream_modulation_img\.lin"):
        return None
    is_bfl = names.has(r"double_blocks\.0\.")
    double = names.count("double_blocks" if is_bfl else "transformer_blocks")
    single = names.count("single_blocks" if is_bfl else "single_transformer_blocks")
    width = names.size(0, "img_in.weight", "x_embedder.weight")
    context = names.size(1, "txt_in.weight", "context_embedder.weight")
    has_guidance = names.has(r"guidance_in\.|time_guidance_embed\.guidance_embedder")
    size = _KLEIN_SIZES.get((width, double, single))
    notes: tuple[str, ...] = ()
    if not size:
        notes = (f"not a published size: {double}+{single} blocks of width {width}",)
    if has_guidance or width == _DEV_WIDTH:
        size, notes = None, ("FLUX.2 dev has a guidance input and a Mistral encoder; not run here",)
    numbers = {
        "width": width,
        "double_blocks": double,
        "single_blocks": single,
        "context_width": context,
        "channels": names.size(1, "img_in.weight", "x_embedder.weight"),
    }
    family = DEV if has_guidance or width == _DEV_WIDTH else KLEIN
    return Finding(TRANSFORMER, family, size, "BFL" if is_bfl else "diffusers", numbers, notes)


def _qwen3(names: Names) -> Finding | None:
    is_llama = names.has(r"blk\.0\.attn_q_norm\.")
    if not is_llama and not names.has(r"model\.layers\.0\.self_attn\.q_norm\."):
        return None
    if names.has(r"model\.layers\.0\.mlp\.experts|blk\.0\.ffn_gate_exps|(model\.)?visual\."):
        return Finding(TEXT_ENCODER, "another Qwen3 (experts or pictures)", layout="transformers")
    layers = names.count("blk" if is_llama else r"model\.layers")
    width = names.size(0, "blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight")
    size = _QWEN3_SIZES.get((width, layers))
    users = [klein for klein, encoder in ENCODER_OF.items() if encoder == size]
    note = f"the text encoder of klein {users[0]}" if users else "of no published klein"
    numbers = {
        "width": width,
        "layers": layers,
        "vocabulary": names.size(0, "token_embd.weight", "model.embed_tokens.weight"),
    }
    layout = "llama.cpp" if is_llama else "transformers"
    return Finding(TEXT_ENCODER, QWEN3, size, layout, numbers, (note,))


def _autoencoder(names: Names) -> Finding | None:
    """By the latents' channels and by statistics, which only FLUX.2 has."""
    shape = names.shape("decoder.conv_in.weight")
    if len(shape) != 4:
        return None
    layout = "diffusers" if names.has(r"decoder\.up_blocks\.") else "BFL"
    numbers = {"latent_channels": shape[1], "decoder_width": shape[0]}
    has_encoder = names.has(r"encoder\.conv_in\.")
    if shape[1] == 32 and (names.has(r"bn\.running_mean") or not has_encoder):
        finest = names.size(0, "decoder.conv_norm_out.weight", "decoder.norm_out.weight")
        numbers["finest_width"] = finest
        kinds = {512: "full decoder", 384: "small decoder"}
        kind = kinds.get(shape[0], f"decoder of width {shape[0]}")
        notes = () if has_encoder else (DECODER_ONLY,)
        return Finding(AUTOENCODER, FLUX2, kind, layout, numbers, notes)
    families = {4: "SD 1.5 or SDXL", 16: "FLUX.1 or SD 3"}
    note = f"{shape[1]} latent channels; klein's has 32 and statistics (bn)"
    family = families.get(shape[1], "another family")
    return Finding(AUTOENCODER, family, None, layout, numbers, (note,))


# Names that only one family has: (pattern, component, family, layout).
_OTHERS = (
    (r"distilled_guidance_layer\.", TRANSFORMER, "Chroma", "BFL"),
    (r"double_blocks\.0\.img_mod\.lin", TRANSFORMER, "FLUX.1", "BFL"),
    (r"single_transformer_blocks\.0\.norm\.linear", TRANSFORMER, "FLUX.1", "diffusers"),
    (r"double_blocks\.0\.img_attn_qkv", TRANSFORMER, "HunyuanVideo", "its own"),
    (r"joint_blocks\.0\.context_block", TRANSFORMER, "SD 3", "its own"),
    (r"transformer_blocks\.0\.img_mod\.1", TRANSFORMER, "Qwen-Image", "diffusers"),
    (r"transformer_blocks\.0\.norm1_context", TRANSFORMER, "SD 3", "diffusers"),
    (r"(noise|context)_refiner\.0\.", TRANSFORMER, "Z-Image or Lumina", "its own"),
    (r"blocks\.0\.cross_attn\.", TRANSFORMER, "Wan", "its own"),
    (r"encoder\.block\.0\.layer\.0\.SelfAttention|enc\.blk\.0\.", TEXT_ENCODER, "T5", "its own"),
    (r"(text_model\.)?encoder\.layers\.0\.self_attn", TEXT_ENCODER, "CLIP", "transformers"),
    (r"(model\.)?visual\.", TEXT_ENCODER, "language model with pictures", "transformers"),
    (r"model\.layers\.0\.self_attn\.", TEXT_ENCODER, "Llama, Mistral or Qwen2", "transformers"),
    (r"blk\.0\.attn_q\.", TEXT_ENCODER, "Llama, Mistral or Qwen2", "llama.cpp"),
    (r"encoder\.conv1\.|decoder\.middle\.", AUTOENCODER, "Wan or another video model", "its own"),
)


def _other(names: Names) -> Finding | None:
    if names.has(r"input_blocks\.|down_blocks\.0\."):
        layout = "diffusers" if names.has(r"down_blocks\.0\.") else "CompVis"
        return Finding(UNET, _stable_diffusion(names), layout=layout)
    for pattern, component, family, layout in _OTHERS:
        if names.has(pattern):
            return Finding(component, family, layout=layout)
    return None
