"""The models that have a name, what is known of each, and where they lie. No torch, no network."""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from kleinod.config import RANGES, read_json
from kleinod.errors import InputError, WeightsError
from kleinod.request import MAX_PIXELS, MAX_STEPS, MIN_SIDE_PIXELS

APACHE = "Apache-2.0"
NON_COMMERCIAL = "FLUX Non-Commercial License"
UNKNOWN_LICENSE = "unknown"


@dataclass(frozen=True)
class KnownModel:
    """A published model; variant is "distilled", "base" or "kv"."""

    name: str
    repository: str | None
    license: str
    variant: str = "distilled"


@dataclass(frozen=True)
class ModelInfo:
    """What no tensor tells of a model, with the published klein values where nothing is said."""

    name: str
    is_distilled: bool
    default_size: int = 1024
    num_inference_steps: int = 4
    guidance_scale: float = 1.0
    license: str = UNKNOWN_LICENSE
    text_layers: tuple[int, ...] = (9, 18, 27)
    max_text_tokens: int = 512


_HUB = "black-forest-labs/FLUX.2-"
KNOWN = {
    model.name: model
    for model in (
        KnownModel("mini", None, APACHE),
        KnownModel("klein-4b", _HUB + "klein-4B", APACHE),
        KnownModel("klein-base-4b", _HUB + "klein-base-4B", APACHE, "base"),
        KnownModel("klein-9b", _HUB + "klein-9B", NON_COMMERCIAL),
        KnownModel("klein-base-9b", _HUB + "klein-base-9B", NON_COMMERCIAL, "base"),
        KnownModel("klein-9b-kv", _HUB + "klein-9b-kv", NON_COMMERCIAL, "kv"),
    )
}


def find(name: str | Path) -> Path:
    """The local folder or file of a known name or a path. Raises InputError."""
    known = KNOWN.get(str(name))
    if known is None:
        if Path(name).exists():
            return Path(name)
        names = ", ".join(KNOWN)
        raise InputError(f"model: {name} is no path and no known model; give a path or {names}")
    folder = present(known)
    if folder is None:
        remedy = (
            f"run `kleinod pull {known.name}` ({known.repository}) "
            f"or put it into $KLEINOD_MODELS/{known.name}"
        )
        if known.repository is None:
            remedy = "install kleinod again, with its package data"
        raise InputError(
            f"model: {known.name} is not on this machine; {remedy} (known: {', '.join(KNOWN)})"
        )
    return folder


def present(known: KnownModel) -> Path | None:
    """The first folder that holds the model: the package's, $KLEINOD_MODELS', the hub's cache."""
    if known.repository is None:
        candidates = [Path(__file__).parent / known.name]
    else:
        candidates = [*_own_folders(known.name), *_snapshots(known.repository)]
    return next((path for path in candidates if (path / "model_index.json").is_file()), None)


def _own_folders(name: str) -> list[Path]:
    root = os.environ.get("KLEINOD_MODELS")
    return [Path(root).expanduser() / name] if root else []


def hub_cache() -> Path:
    """Where huggingface-hub keeps its downloads."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return Path(os.environ.get("HF_HUB_CACHE", home / "hub")).expanduser()


def repository_cache(repository: str) -> Path:
    """Where the hub's cache keeps a repository."""
    return hub_cache() / ("models--" + repository.replace("/", "--"))


def _snapshots(repository: str) -> list[Path]:
    """Snapshots in huggingface-hub's cache, the one that `main` names first."""
    folder = repository_cache(repository)
    snapshots = sorted((folder / "snapshots").glob("*"))
    main = folder / "refs" / "main"
    revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    return sorted(snapshots, key=lambda path: path.name != revision)


def config_folder() -> Path:
    """Where kleinod keeps what it cannot make again: $KLEINOD_HOME, else the user's folder."""
    own = os.environ.get("KLEINOD_HOME")
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(own).expanduser() if own else Path(base).expanduser() / "kleinod"


def cache_folder() -> Path | None:
    """Where kleinod keeps what it can make again: $KLEINOD_CACHE, else the user's cache folder.

    None if $KLEINOD_CACHE is `off`.
    """
    own = os.environ.get("KLEINOD_CACHE", "")
    if own == "off":
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "kleinod"
    return Path(own).expanduser() if own else base


def describe(name: str | Path, path: Path, *, titles: Iterable[str] = ()) -> ModelInfo:
    """The facts of the model at path: kleinod.json, model_index.json, then the klein values.

    titles: what a single file calls itself in its header. Where nothing tells its variant,
    `guess_warning` says what was assumed.
    """
    known = KNOWN.get(str(name))
    is_distilled = known.variant != "base" if known else _is_distilled(path, titles)
    info = ModelInfo(
        name=known.name if known else path.stem if path.is_file() else path.resolve().name,
        is_distilled=is_distilled,
        num_inference_steps=4 if is_distilled else 50,
        guidance_scale=1.0 if is_distilled else 4.0,
        license=known.license if known else UNKNOWN_LICENSE,
    )
    own = path / "kleinod.json"
    return _updated(info, own) if own.is_file() else info


def _updated(info: ModelInfo, file: Path) -> ModelInfo:
    """The facts that kleinod.json states over those of info. Raises WeightsError."""
    stated: dict[str, Any] = {}
    for name, value in read_json(file).items():
        if name in _CHECKS:
            is_right, limit = _CHECKS[name]
            if not is_right(value):
                raise WeightsError(
                    f"{file}: {name} is {_shown(value)}, not {limit}; fetch the model again"
                )
            stated[name] = tuple(value) if isinstance(value, list) else value
    return replace(info, **stated)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 80 else f"{text[:80]}… ({len(text)} letters)"


def _is_count(value: object, least: float, most: float) -> bool:
    return type(value) is int and least <= value <= most


def _is_line(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_LETTERS and value.isprintable()


def _are_layers(value: object) -> bool:
    """Counted from 1, each after the one before it."""
    if not isinstance(value, list) or not 0 < len(value) <= 16:
        return False
    is_each = all(_is_count(item, 1, RANGES["num_hidden_layers"][1]) for item in value)
    return is_each and all(a < b for a, b in pairwise(value))


_MAX_LETTERS = 200
_MAX_GUIDANCE = 100
_MAX_TEXT_TOKENS = 4096
_MAX_SIDE = math.isqrt(MAX_PIXELS)
_LINE = f"a line of at most {_MAX_LETTERS} printable letters"
# What kleinod.json may state, what it must look like (as in a request), and that in words.
_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "name": (_is_line, _LINE),
    "license": (_is_line, _LINE),
    "default_size": (
        lambda value: _is_count(value, MIN_SIDE_PIXELS, _MAX_SIDE) and value % 16 == 0,
        f"a multiple of 16 from {MIN_SIDE_PIXELS} to {_MAX_SIDE}",
    ),
    "num_inference_steps": (
        lambda value: _is_count(value, 1, MAX_STEPS),
        f"a whole number from 1 to {MAX_STEPS}",
    ),
    "guidance_scale": (
        lambda value: type(value) in (int, float) and 1 <= value <= _MAX_GUIDANCE,
        f"a number from 1 to {_MAX_GUIDANCE}",
    ),
    "text_layers": (_are_layers, "a list of at most 16 rising layers, counted from 1"),
    "max_text_tokens": (
        lambda value: _is_count(value, 1, _MAX_TEXT_TOKENS),
        f"a whole number from 1 to {_MAX_TEXT_TOKENS}",
    ),
}


def named_variant(text: str) -> str | None:
    """The variant that a name says: "distilled", "base", "kv", a published name, or None."""
    words = re.split(r"[^a-z0-9]+", text.lower())
    for word in ("base", "kv", "distilled"):
        if word in words:
            return word
    return "distilled" if "klein" in words else None


def name_evidence(path: Path) -> tuple[str, str]:
    """The repository's name in the hub's cache, empty elsewhere, and the file's or folder's."""
    hub = _HUB_FOLDER.search(str(path.absolute()))
    return hub[1] if hub else "", path.name


_HUB_FOLDER = re.compile(r"models--[\w.-]+?--([\w.-]+)")


def guess_warning(name: str | Path, path: Path, *, titles: Iterable[str] = ()) -> str | None:
    """What to say of a single file whose variant was guessed: no tensor tells it. None if known."""
    if str(name) in KNOWN or (path / "model_index.json").is_file():
        return None
    variant = _named(path, titles)
    if variant is None:
        return (
            f"{path.name}: neither its name nor its contents say whether it is a distilled or a "
            "base model; taken as distilled"
        )
    return f"{path.name}: taken as {variant}, which its name says; nothing else in it does"


def _named(path: Path, titles: Iterable[str]) -> str | None:
    names = (*name_evidence(path), *titles)
    return next((variant for text in names if (variant := named_variant(text))), None)


def _is_distilled(path: Path, titles: Iterable[str]) -> bool:
    index = path / "model_index.json"
    if index.is_file():
        # absent means base: diffusers' own default
        return bool(read_json(index).get("is_distilled", False))
    return _named(path, titles) != "base"
