"""The models that have a name, what is known of each, and where they lie. No torch, no network."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kleinod.config import read_json
from kleinod.errors import InputError, WeightsError

APACHE = "Apache-2.0"
NON_COMMERCIAL = "FLUX Non-Commercial License"
UNKNOWN_LICENSE = "unknown"

_log = logging.getLogger(__name__)


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


def describe(name: str | Path, path: Path) -> ModelInfo:
    """The facts of the model at path: kleinod.json, model_index.json, then the klein values."""
    known = KNOWN.get(str(name))
    is_distilled = known.variant != "base" if known else _is_distilled(path)
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
            if not _CHECKS[name](value):
                raise WeightsError(f"{file}: {name} is {value!r}; fetch the model again")
            stated[name] = tuple(value) if isinstance(value, list) else value
    return replace(info, **stated)


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


# what kleinod.json may state, and what it must look like
_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": lambda value: isinstance(value, str),
    "license": lambda value: isinstance(value, str),
    "default_size": lambda value: _is_count(value) and value >= 64 and value % 16 == 0,
    "num_inference_steps": _is_count,
    "guidance_scale": lambda value: type(value) in (int, float) and value >= 1,
    "text_layers": lambda value: (
        isinstance(value, list) and len(value) > 0 and all(_is_count(item) for item in value)
    ),
    "max_text_tokens": _is_count,
}


def _is_distilled(path: Path) -> bool:
    index = path / "model_index.json"
    if index.is_file():
        # absent means base: diffusers' own default
        return bool(read_json(index).get("is_distilled", False))
    guess = "base" if "base" in path.name.lower() else "distilled"
    _log.warning("%s does not say its variant; taken as %s, from its name", path.name, guess)
    return guess == "distilled"
