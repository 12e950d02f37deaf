"""A report of a file or a folder from headers alone: what it is and in which formats.

Reads no tensor data and needs no torch. What it needs in memory and how to use it: `usage.py`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kleinod import catalog
from kleinod.catalog import ModelInfo
from kleinod.config import read_json
from kleinod.errors import InputError, WeightsError
from kleinod.weights import identify, prefixes
from kleinod.weights.headers import (
    INDEX_SUFFIX,
    Header,
    TensorEntry,
    read_header,
    read_shards,
    titles_of,
)
from kleinod.weights.identify import Finding, Names
from kleinod.weights.layer_formats import LayerGroup, format_notes, layer_groups
from kleinod.weights.listing import is_visible, weight_files, weights_in

TOKENIZER = "tokenizer"
# the folders of a pipeline in the diffusers layout that klein needs, and those other models have
NEEDED = ("transformer", "text_encoder", "vae", "tokenizer")
_FOLDERS = (*NEEDED, "unet", "text_encoder_2", "text_encoder_3")
_MAX_TOKENIZER_BYTES = 64_000_000
# where programs keep the other files of a split model
_NEIGHBOURS = ("text_encoders", "clip", "vae", "diffusion_models", "unet")
_MAX_NEIGHBOURS = 24


@dataclass(frozen=True)
class Part:
    """One component: a file, or the files of a folder."""

    path: Path
    finding: Finding
    container: str
    entries: Mapping[str, TensorEntry]
    metadata: Mapping[str, object]
    groups: tuple[LayerGroup, ...]
    notes: tuple[str, ...]

    @property
    def parameters(self) -> int:
        """Numbers the model has, scales not counted."""
        return sum(group.parameters for group in self.groups)

    @property
    def num_bytes(self) -> int:
        """Stored bytes of all tensors, scales too."""
        return sum(entry.end - entry.begin for entry in self.entries.values())


@dataclass(frozen=True)
class Variant:
    """distilled, base or kv (None: it cannot be told), and how that is known."""

    name: str | None
    evidence: str


@dataclass(frozen=True)
class Inspection:
    """What the headers tell of a path.

    model: a known model's name, if one was given; companions: files nearby that fit a single file.
    """

    path: Path
    title: str
    parts: tuple[Part, ...]
    missing: tuple[str, ...]
    variant: Variant | None
    info: ModelInfo | None
    notes: tuple[str, ...]
    model: str | None = None
    companions: Mapping[str, Part] = field(default_factory=dict)

    def part(self, component: str) -> Part | None:
        """The part that is such a component."""
        return next((part for part in self.parts if part.finding.component == component), None)


def inspected(name: str | Path) -> Inspection:
    """Look at a file, a folder or a known model that is here. Raises InputError, WeightsError."""
    path = catalog.find(name)
    model = str(name) if str(name) in catalog.KNOWN else None
    if path.is_dir() and (path / "model_index.json").is_file():
        return _pipeline(path, model)
    if _is_tokenizer(path):
        part = _tokenizer(path)
        return Inspection(path, part.finding.title, (part,), (), None, None, part.notes)
    part = read_part(path)
    if part.finding.component == identify.CHECKPOINT:
        return _checkpoint(part, model)
    is_transformer = part.finding.component == identify.TRANSFORMER and part.finding.is_klein
    variant = _variant(path, part.metadata, model) if is_transformer else None
    others = _companions(part)
    return Inspection(
        path, part.finding.title, (part,), (), variant, None, part.notes, model, others
    )


def read_part(path: Path) -> Part:
    """What a file or a folder of one component holds. Raises InputError, WeightsError."""
    headers = _headers(path)
    entries = {name: entry for header in headers for name, entry in header.tensors.items()}
    return _part(path, headers, entries)


def _part(path: Path, headers: list[Header], entries: Mapping[str, TensorEntry]) -> Part:
    finding = identify.recognise(entries)
    groups = layer_groups(finding.component, Names(entries).entries)
    if finding.component == identify.UNKNOWN and not entries:
        raise WeightsError(f"{path}: holds no tensor; fetch it again")
    notes = (*finding.notes, *format_notes(groups))
    container = headers[0].format + (f", {len(headers)} shards" if len(headers) > 1 else "")
    metadata = headers[0].metadata
    return Part(path, finding, container, entries, metadata, tuple(groups), notes)


def _checkpoint(whole: Part, model: str | None) -> Inspection:
    """A file of several components: a part for each. What it lacks has to be given."""
    several = identify.checkpoint_parts(whole.entries)
    headers = [Header(whole.container, whole.entries, whole.metadata, 0)]
    parts = tuple(_part(whole.path, headers, entries) for entries in several.values())
    is_klein = whole.finding.is_klein and identify.TRANSFORMER in several
    missing = {identify.TEXT_ENCODER: "text_encoder", identify.AUTOENCODER: "vae"}
    lacking = tuple(name for component, name in missing.items() if component not in several)
    return Inspection(
        whole.path,
        whole.finding.title,
        parts,
        lacking if is_klein else (),
        _variant(whole.path, whole.metadata, model) if is_klein else None,
        None,
        (whole.finding.notes[0], *(note for part in parts for note in part.notes)),
        model,
    )


def _headers(path: Path) -> list[Header]:
    if not path.is_dir():
        return [read_header(path)]
    indices = sorted(p for p in path.glob("*" + INDEX_SUFFIX) if is_visible(p.name))
    if indices:
        return list(read_shards(indices[0]).values())
    found = weights_in(path)
    if not found:
        raise InputError(f"{path}: holds no model_index.json and no weights; give a model's folder")
    files = weight_files(path)
    if len(files) > 1:
        names = ", ".join(file.name for file in files[:4])
        raise InputError(f"{path}: holds {len(files)} weight files; give one of them ({names})")
    return [read_header(files[0])]


def _companions(part: Part) -> dict[str, Part]:
    """Files nearby that fit a single file of klein's: the first of each other component."""
    found: dict[str, Part] = {}
    if part.path.is_dir() or not part.finding.is_klein:
        return found
    for file in _nearby(part.path):
        try:
            other = read_part(file)
        except InputError:
            continue
        if other.finding.component not in prefixes.COMPONENTS:
            continue
        is_new = other.finding.component not in (part.finding.component, *found)
        if is_new and other.finding.is_klein and _fits(part.finding, other.finding):
            found[other.finding.component] = other
    return found


def _nearby(path: Path) -> Iterator[Path]:
    folders = [path.parent, *(path.parent.parent / name for name in _NEIGHBOURS)]
    files = [
        file for folder in folders if folder.is_dir() for file in weights_in(folder) if file != path
    ]
    return iter(list(dict.fromkeys(files))[:_MAX_NEIGHBOURS])


def _fits(one: Finding, other: Finding) -> bool:
    """Whether a transformer and a text encoder are of one model; an autoencoder fits either."""
    if identify.AUTOENCODER in (one.component, other.component):
        return True
    transformer, encoder = (one, other) if one.component == identify.TRANSFORMER else (other, one)
    return transformer.numbers["context_width"] == 3 * encoder.numbers["width"]


def _pipeline(path: Path, model: str | None) -> Inspection:
    """A folder in the diffusers layout."""
    index = read_json(path / "model_index.json")
    present = [name for name in _FOLDERS if (path / name).is_dir()]
    parts = tuple(
        _tokenizer(path / name) if name == TOKENIZER else read_part(path / name) for name in present
    )
    transformer = next((p for p in parts if p.finding.component == identify.TRANSFORMER), None)
    kind = str(index.get("_class_name") or "a pipeline")
    is_klein = "Flux2Klein" in kind
    title = f"{kind} folder"
    if transformer is not None:
        is_klein |= transformer.finding.is_klein
        title = transformer.finding.title.removesuffix(" transformer") + " (a whole model)"
    if not is_klein:
        note = f"{kind} is no klein model; it is not run here"
        return Inspection(path, title, parts, (), None, None, (note,), model)
    missing = tuple(name for name in NEEDED if name not in present)
    info = catalog.describe(model or path, path)
    variant = _variant(path, {}, model)
    notes = _pair_notes(parts, info)
    return Inspection(path, title, parts, missing, variant, info, notes, model)


def _pair_notes(parts: tuple[Part, ...], info: ModelInfo) -> tuple[str, ...]:
    """What does not fit together, and the notes of each part."""
    notes = [f"{part.finding.component}: {note}" for part in parts for note in part.notes]
    numbers = {part.finding.component: part.finding.numbers for part in parts}
    transformer = numbers.get(identify.TRANSFORMER, {})
    gives = numbers.get(identify.TEXT_ENCODER, {}).get("width", 0) * len(info.text_layers)
    reads = transformer.get("context_width", 0)
    if gives and reads and gives != reads:
        notes.append(f"does not fit: the text encoder gives {gives} numbers per token, not {reads}")
    gives = numbers.get(identify.AUTOENCODER, {}).get("latent_channels", 0) * 4
    reads = transformer.get("channels", 0)
    if gives and reads and gives != reads:
        notes.append(f"does not fit: the autoencoder gives {gives} channels, not {reads}")
    return tuple(notes)


def _variant(path: Path, metadata: Mapping[str, object], model: str | None) -> Variant:
    """By the strongest evidence there is; no tensor tells."""
    if model in catalog.KNOWN:
        return Variant(catalog.KNOWN[model].variant, f"{model} is a known model")
    repository, name = catalog.name_evidence(path)
    index = path / "model_index.json"
    if index.is_file():
        stated = read_json(index)
        if "KV" in str(stated.get("_class_name")):
            return Variant("kv", "model_index.json names the KV pipeline")
        if "is_distilled" in stated:
            is_distilled = bool(stated["is_distilled"])
            evidence = f"model_index.json, is_distilled {str(is_distilled).lower()}"
            named = catalog.named_variant(repository or name)
            is_kv = is_distilled and named == "kv"
            return Variant("kv" if is_kv else "distilled" if is_distilled else "base", evidence)
        return Variant("base", "model_index.json has no is_distilled, which means base")
    titles = titles_of(metadata)
    for text, evidence in (
        (repository, "the repository's name"),
        (name, "the file's name"),
        *((title, "its own title") for title in titles),
    ):
        named = catalog.named_variant(text)
        if named:
            return Variant(named, f"{evidence}, {text}")
    return Variant(None, "cannot be told from the tensors, nor by its name; taken as distilled")


def _is_tokenizer(path: Path) -> bool:
    if path.is_file():
        return path.name in ("tokenizer.json", "vocab.json", "merges.txt")
    names = {file.name for file in path.iterdir()}
    return not weights_in(path) and (
        "tokenizer.json" in names or {"vocab.json", "merges.txt"} <= names
    )


def _tokenizer(path: Path) -> Part:
    """A tokenizer's folder or file, and how many tokens it has. Raises WeightsError."""
    folder = path if path.is_dir() else path.parent
    file, vocabulary = folder / "tokenizer.json", folder / "vocab.json"
    if not file.is_file() and not vocabulary.is_file():
        raise WeightsError(f"{path}: holds no tokenizer.json and no vocab.json; fetch it again")
    source = file if file.is_file() else vocabulary
    if source.stat().st_size > _MAX_TOKENIZER_BYTES:
        raise WeightsError(f"{source}: is over {_MAX_TOKENIZER_BYTES} bytes; fetch it again")
    if source == vocabulary and not (folder / "merges.txt").is_file():
        raise WeightsError(f"{folder}: vocab.json needs merges.txt beside it; fetch it again")
    values = read_json(source)
    tokens = set(values) if source == vocabulary else _tokens(values)
    numbers = {"tokens": len(tokens)}
    is_qwen = "<|im_start|>" in tokens or source == vocabulary
    family = "Qwen" if is_qwen else "another family's"
    finding = Finding(TOKENIZER, family, None, source.name, numbers)
    return Part(path, finding, "JSON", {}, {}, (), ())


def _tokens(values: Mapping[str, Any]) -> set[str]:
    """The tokens of a tokenizer.json, added ones too."""
    model, added = values.get("model"), values.get("added_tokens")
    tokens = model.get("vocab") if isinstance(model, dict) else None
    more = added if isinstance(added, list) else []
    contents = {str(token.get("content")) for token in more if isinstance(token, dict)}
    return contents | (set(tokens) if isinstance(tokens, dict) else set())
