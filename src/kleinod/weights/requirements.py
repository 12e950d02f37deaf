"""What a model needs in memory, under which licence it is, and the command that uses it. No torch.

Memory is an estimate, for one picture of the model's own size, without references, in bfloat16:

    held bytes   FP8, NVFP4, GGUF and 16-bit weights as stored, wider floats as bfloat16;
                 of the text encoder only the token table and the layers that are read
    activations  transformer and text encoder: 40 numbers of 2 bytes per token and width;
                 autoencoder: 11 pictures of its finest width in 2 bytes (measured:
                 docs/log/2026-11-25-activation-memory.md)
    none         every component's held bytes + the largest activations
    model        the largest component with its own activations

A component that is not there counts as the published one in bfloat16.
"""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from kleinod import catalog
from kleinod.catalog import KnownModel, ModelInfo
from kleinod.weights import identify
from kleinod.weights.identify import AUTOENCODER, ENCODER_OF, TEXT_ENCODER, TRANSFORMER, Names
from kleinod.weights.inspect_model import Inspection, Part

LICENSES = {"4B": catalog.APACHE, "9B": catalog.NON_COMMERCIAL}
DEV_LICENSE = "FLUX [dev] Non-Commercial License"
_WIDE_FLOATS = ("F32", "F64")
_TRANSFORMER_NUMBERS, _DECODER_PICTURES = 40, 11
_LAYER = re.compile(r"(?:model\.layers|blk)\.(\d+)\.")
_UNREAD = re.compile(r"lm_head\.|model\.norm\.|output\.|output_norm\.")
# Held bytes and width of the published text encoders (token table and layers 0 to 26 in bfloat16),
# and the finest width of the published autoencoder, which holds 168 MB.
_ENCODERS = {"4B": (6_227_000_000, 2560), "8B": (11_665_000_000, 4096)}
_AUTOENCODER = (168_000_000, 128)
_WIDTHS = {"4B": 3072, "9B": 4096}
# All of a published text encoder in bfloat16: 4.02 and 8.19 thousand million parameters by their
# shapes; 36 layers, and of the larger one a head that is no copy of its token table.
_STORED_ENCODERS = {"4B": 8_045_000_000, "8B": 16_381_000_000}


@dataclass(frozen=True)
class _Need:
    held: int
    activations: int


def held_bytes(part: Part, info: ModelInfo | None = None) -> int:
    """Bytes of a component's weights in memory."""
    layers = max(info.text_layers) if info else 27
    is_wide_kept = info is not None and info.name == "mini"  # it is computed in float32
    return sum(
        entry.num_elements * 2
        if entry.dtype in _WIDE_FLOATS and not is_wide_kept
        else entry.end - entry.begin
        for name, entry in Names(part.entries).entries.items()
        if part.finding.component != TEXT_ENCODER or _is_read(name, layers)
    )


def _is_read(name: str, num_layers: int) -> bool:
    layer = _LAYER.match(name)
    return int(layer[1]) < num_layers if layer else not _UNREAD.match(name)


def memory(inspection: Inspection) -> dict[str, int] | None:
    """Bytes under each value of offload; None where it is no klein transformer or model."""
    transformer = inspection.part(TRANSFORMER)
    if transformer is None or transformer.finding.family != identify.KLEIN:
        return None
    info, others = inspection.info, inspection.companions
    text_encoder = inspection.part(TEXT_ENCODER) or others.get(TEXT_ENCODER)
    needs = [
        _transformer_need(transformer, info),
        _encoder_need(text_encoder, transformer, info),
        _autoencoder_need(inspection.part(AUTOENCODER) or others.get(AUTOENCODER), info),
    ]
    return _by_policy(needs)


def published_memory(known: KnownModel) -> dict[str, int] | None:
    """The same for a published model that need not be here; None where its size is not known."""
    if known.size is None or known.num_bytes is None:
        return None
    encoder_held, encoder_width = _ENCODERS[ENCODER_OF[known.size]]
    held, finest_width = _AUTOENCODER
    size, num_tokens = _size_and_tokens(None)
    tokens = (size // 16) ** 2 + num_tokens
    unit = 2 * _TRANSFORMER_NUMBERS
    needs = [
        _Need(known.num_bytes, tokens * _WIDTHS[known.size] * unit),
        _Need(encoder_held, num_tokens * encoder_width * unit),
        _Need(held, size**2 * finest_width * 2 * _DECODER_PICTURES),
    ]
    return _by_policy(needs)


def published_bytes(known: KnownModel) -> int | None:
    """What it takes on a disk: tensors of every component; of a transformer alone its file."""
    if known.size is None or known.num_bytes is None or known.is_transformer_only:
        return known.num_bytes
    return known.num_bytes + _STORED_ENCODERS[ENCODER_OF[known.size]] + _AUTOENCODER[0]


def _by_policy(needs: list[_Need]) -> dict[str, int]:
    return {
        "none": sum(need.held for need in needs) + max(need.activations for need in needs),
        "model": max(need.held + need.activations for need in needs),
    }


def assumed(inspection: Inspection) -> tuple[str, ...]:
    """The components that `memory` counts as the published ones, because they are not here."""
    if memory(inspection) is None:
        return ()
    return tuple(
        name
        for name in (TEXT_ENCODER, AUTOENCODER)
        if inspection.part(name) is None and name not in inspection.companions
    )


def _size_and_tokens(info: ModelInfo | None) -> tuple[int, int]:
    return (info.default_size, info.max_text_tokens) if info else (1024, 512)


def _transformer_need(part: Part, info: ModelInfo | None) -> _Need:
    size, num_text_tokens = _size_and_tokens(info)
    tokens = (size // 16) ** 2 + num_text_tokens
    width = part.finding.numbers["width"]
    return _Need(held_bytes(part, info), tokens * width * 2 * _TRANSFORMER_NUMBERS)


def _encoder_need(part: Part | None, transformer: Part, info: ModelInfo | None) -> _Need:
    tokens = _size_and_tokens(info)[1]
    if part is not None:
        held, width = held_bytes(part, info), part.finding.numbers.get("width", 0)
    else:
        size = ENCODER_OF.get(transformer.finding.size or "", "")
        held, width = _ENCODERS.get(size, (0, 0))
    return _Need(held, tokens * width * 2 * _TRANSFORMER_NUMBERS)


def _autoencoder_need(part: Part | None, info: ModelInfo | None) -> _Need:
    held, width = _AUTOENCODER
    if part is not None:
        held, width = held_bytes(part, info), part.finding.numbers.get("finest_width", width)
    return _Need(held, _size_and_tokens(info)[0] ** 2 * width * 2 * _DECODER_PICTURES)


def license_of(inspection: Inspection) -> str:
    """The licence, as far as what it is tells."""
    if inspection.model in catalog.KNOWN:
        return catalog.KNOWN[inspection.model].license
    if inspection.info and inspection.info.license != catalog.UNKNOWN_LICENSE:
        return inspection.info.license
    part = inspection.part(TRANSFORMER) or next(iter(inspection.parts), None)
    if part is None:
        return catalog.UNKNOWN_LICENSE
    finding = part.finding
    if finding.family == identify.DEV:
        return DEV_LICENSE
    if finding.family == identify.KLEIN and finding.component == TRANSFORMER:
        return LICENSES.get(finding.size or "", catalog.UNKNOWN_LICENSE)
    is_free = finding.family in (identify.QWEN3, identify.FLUX2)
    return catalog.APACHE if is_free else catalog.UNKNOWN_LICENSE


def command(inspection: Inspection) -> str | None:
    """The line that uses it, with capitals where a file is still needed; None if nothing does."""
    if inspection.info is not None:
        return _line({"--model": inspection.model or str(inspection.path)}, inspection.missing)
    if _is_checkpoint(inspection):
        return _line({"--model": str(inspection.path)}, inspection.missing)
    part = next(iter(inspection.parts), None)
    if len(inspection.parts) != 1 or part is None or not part.finding.is_klein:
        return None
    if part.finding.component == TRANSFORMER and inspection.path.is_dir():
        # a component of a model's folder is used through that folder
        whole = inspection.path.absolute().parent
        return _line({"--model": str(whole)}, ()) if _is_model(whole) else None
    files = {
        TRANSFORMER: "TRANSFORMER.safetensors",
        TEXT_ENCODER: "TEXT_ENCODER.safetensors",
        AUTOENCODER: "AUTOENCODER.safetensors",
    }
    files |= {component: str(other.path) for component, other in inspection.companions.items()}
    files[part.finding.component] = str(inspection.path)
    return _line(
        {
            "--model": files[TRANSFORMER],
            "--text-encoder": files[TEXT_ENCODER],
            "--autoencoder": files[AUTOENCODER],
        },
        (),
    )


def _is_checkpoint(inspection: Inspection) -> bool:
    """Whether a file holds a klein transformer and more."""
    transformer = inspection.part(TRANSFORMER)
    return len(inspection.parts) > 1 and transformer is not None and transformer.finding.is_klein


def _is_model(folder: Path) -> bool:
    return (folder / "model_index.json").is_file()


def _line(options: dict[str, str], missing: tuple[str, ...]) -> str:
    names = {"text_encoder": "--text-encoder", "vae": "--autoencoder", "tokenizer": "--tokenizer"}
    options |= {names[name]: name.upper() for name in missing if name in names}
    words = (f"{option} {shlex.quote(value)}" for option, value in options.items())
    return " ".join(('kleinod generate "a fox"', *words))
