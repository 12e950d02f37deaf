"""Which component a tensor belongs to, and its own name without what programs put before it.

    file's name = prefix of known words + own name       module._orig_mod. + double_blocks.0. …

An own name begins with a stem (`_STEMS`), which tells the component. What stands before it must be
made of that component's words; any other name stays as it is, and strict loading then refuses it.
A checkpoint holds several components under `CHECKPOINT` prefixes. No torch in here.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

TRANSFORMER, TEXT_ENCODER, AUTOENCODER = "transformer", "text_encoder", "autoencoder"
COMPONENTS = (TRANSFORMER, TEXT_ENCODER, AUTOENCODER)

# Words before an own name, as regular expressions, each of one kind only: a name that could be read
# in two ways would take time that doubles with each word. Sources:
#   model.diffusion_model, first_stage_model, cond_stage_model   CompVis' and ComfyUI's checkpoints
#   text_encoders.NAME.transformer, NAME.transformer, vae        ComfyUI's checkpoints and CLIPSave
#   diffusion_model                                              files of single transformers
#   transformer, unet, net, text_encoder, autoencoder            trainers' parts of a pipeline
#   model, language_model                                        transformers' wrappers
#   module, _orig_mod                                            torch's DDP and torch.compile
_WRAPPERS = ("model", "module", "_orig_mod")
_WORDS = {
    TRANSFORMER: ("diffusion_model", "transformer", "unet", "net"),
    TEXT_ENCODER: (
        r"text_encoders\.[\w-]+",
        "text_encoder",
        "cond_stage_model",
        r"qwen3_\w+",
        "transformer",
        "language_model",
    ),
    AUTOENCODER: ("vae", "first_stage_model", "autoencoder"),
}
_STEMS = {
    TRANSFORMER: (
        r"(?:double_blocks|single_blocks|transformer_blocks|single_transformer_blocks)\.\d+\.",
        r"(?:img_in|txt_in|time_in|guidance_in|vector_in|x_embedder|context_embedder)\.",
        r"(?:time_guidance_embed|double_stream_modulation_(?:img|txt)|single_stream_modulation)\.",
        r"(?:final_layer|norm_out\.linear|proj_out)\.",
    ),
    TEXT_ENCODER: (
        r"(?:layers\.\d+|embed_tokens|norm|lm_head)\.",
        r"(?:blk\.\d+|token_embd|output_norm|output)\.",
    ),
    AUTOENCODER: (
        r"(?:encoder|decoder)\.(?:conv_in|conv_out|norm_out|conv_norm_out|mid|mid_block)\.",
        r"(?:encoder|decoder)\.(?:down|up|down_blocks|up_blocks)\.\d+\.",
        r"(?:(?:encoder|decoder)\.)?(?:quant_conv|post_quant_conv)\.",
        r"bn\.",
    ),
}
# the decoder alone, whose names lack `decoder.` (FLUX.2-small-decoder)
_BARE_DECODER = (
    r"(?:conv_in|conv_out|norm_out|conv_norm_out|mid|mid_block|post_quant_conv|bn)\.",
    r"(?:up|up_blocks)\.\d+\.",
)
# what stands before a component in a file of several; nothing else makes a file a checkpoint
CHECKPOINT = {
    TRANSFORMER: ("model.diffusion_model.",),
    TEXT_ENCODER: ("text_encoders.", "cond_stage_model.", "conditioner."),
    AUTOENCODER: ("vae.", "first_stage_model."),
}
# torch.compile, FSDP and activation checkpointing put these between the names of modules, too
_WRAPPED = re.compile(
    r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Tensors that hold no weights, by the end of their names: rope frequencies and position numbers
# that are computed anew (transformers); the bytes of a tokenizer, CLIP's unused scale and the
# marker of older FP8 files (ComfyUI).
_HARMLESS = re.compile(
    r"(?:^|\.)(?:rotary_emb\.inv_freq|position_ids|spiece_model|tekken_model|tokenizer_json"
    r"|logit_scale|scaled_fp8)$"
)


def _pattern(component: str) -> re.Pattern[str]:
    words = "|".join((*_WORDS[component], *_WRAPPERS))
    return re.compile(f"(?:(?:{words})\\.)*(?P<own>(?:{'|'.join(_STEMS[component])}).*)", re.DOTALL)


_PATTERNS = {component: _pattern(component) for component in COMPONENTS}
_BARE = re.compile(
    rf"(?:(?:{'|'.join((*_WORDS[AUTOENCODER], *_WRAPPERS))})\.)*"
    rf"(?P<own>(?:{'|'.join(_BARE_DECODER)}).*)",
    re.DOTALL,
)
# transformers' module of a language model without its head; llama.cpp's names have none
_LANGUAGE_MODEL = re.compile(r"(?:layers\.\d+|embed_tokens|norm)\.")


@dataclass
class NameSplit:
    """The names of a file: own names by component and file's name, and those of no component."""

    own: dict[str, dict[str, str]] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    harmless: list[str] = field(default_factory=list)

    @property
    def is_checkpoint(self) -> bool:
        """Whether several components lie in it, each under its prefix."""
        prefixed = [c for c, names in self.own.items() if _is_prefixed(names, CHECKPOINT[c])]
        return len(prefixed) > 1


def _is_prefixed(names: Iterable[str], prefixes: tuple[str, ...]) -> bool:
    return all(name.startswith(prefixes) for name in names)


def split(names: Iterable[str]) -> NameSplit:
    """Every name of a file with the component that it belongs to."""
    result = NameSplit()
    several = list(names)
    if _is_bare_decoder(several):
        result.own[AUTOENCODER] = {name: _bare_name(name) for name in several}
        return result
    for name in several:
        component, own = _own(name)
        if _HARMLESS.search(name):
            result.harmless.append(name)
        elif component:
            result.own.setdefault(component, {})[name] = own
        else:
            result.unknown.append(name)
    return result


def chosen(names: Iterable[str], component: str) -> dict[str, str]:
    """Own names by file's name, of one component; what nobody knows keeps the file's name.

    Left out are harmless tensors and, under a checkpoint's prefixes, the other components'.
    """
    found = split(names)
    own = dict(found.own.get(component, {}))
    others = tuple(p for c, prefixes in CHECKPOINT.items() if c != component for p in prefixes)
    rest = [*found.unknown, *(n for c, ns in found.own.items() if c != component for n in ns)]
    own |= {name: name for name in rest if not name.startswith(others)}
    return own


def duplicate(own: Mapping[str, str]) -> str | None:
    """An own name that two of the file's names have."""
    seen: set[str] = set()
    for name in own.values():
        if name in seen:
            return name
        seen.add(name)
    return None


def _own(name: str) -> tuple[str, str]:
    """The component and the own name; empty strings where none fits."""
    plain = _WRAPPED.sub("", name)
    under = [c for c, prefixes in CHECKPOINT.items() if plain.startswith(prefixes)]
    for component in under or COMPONENTS:
        match = _PATTERNS[component].fullmatch(plain)
        if match:
            own = match["own"]
            is_model = component == TEXT_ENCODER and _LANGUAGE_MODEL.match(own)
            return component, f"model.{own}" if is_model else own
    return "", ""


def _is_bare_decoder(names: list[str]) -> bool:
    """Whether all names are a decoder's, without `decoder.` before them."""
    plain = [_WRAPPED.sub("", name) for name in names]
    matches = [_BARE.fullmatch(name) for name in plain]
    own = [match["own"] for match in matches if match]
    return len(own) == len(names) > 0 and any(name.startswith("up") for name in own)


def _bare_name(name: str) -> str:
    match = _BARE.fullmatch(_WRAPPED.sub("", name))
    assert match
    own = match["own"]
    return own if own.startswith(("post_quant_conv.", "bn.")) else f"decoder.{own}"
