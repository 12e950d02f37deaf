"""The models that have a name, what is known of each, and where they lie. No torch, no network."""

import math
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from typing import Any

from kleinod import paths
from kleinod.config import RANGES, read_json
from kleinod.display import quoted
from kleinod.errors import InputError, WeightsError
from kleinod.known_models import APACHE as APACHE
from kleinod.known_models import KNOWN as KNOWN
from kleinod.known_models import NON_COMMERCIAL as NON_COMMERCIAL
from kleinod.known_models import UNKNOWN_LICENSE as UNKNOWN_LICENSE
from kleinod.known_models import KnownModel as KnownModel
from kleinod.request import MAX_PIXELS, MAX_STEPS, MIN_SIDE_PIXELS
from kleinod.vocabulary import Vocabulary


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
    vocabulary: Vocabulary | None = field(default=None, repr=False, compare=False)


# what a transformer alone takes from the whole model of its size
SHARED_FOLDERS = ("text_encoder", "vae", "tokenizer")
_WEIGHT_SUFFIXES = (".safetensors", ".gguf")


def known_model(name: str | Path) -> KnownModel | None:
    """The known model of a name or of its Hub repository id; None if it is neither."""
    text = str(name)
    repositories = {model.repository.lower(): model for model in KNOWN.values() if model.repository}
    return KNOWN.get(text) or repositories.get(text.lower())


def find(name: str | Path) -> Path:
    """The local folder or file of a known name, a Hub repository id or a path.

    Raises InputError.
    """
    if not str(name):
        raise InputError(f"model: the name is empty; give a path or {', '.join(KNOWN)}")
    path, known = paths.expand_user(name, "model"), known_model(name)
    if paths.is_url(name):
        raise InputError(f"model: {paths.shown(name)} is a URL; {paths.url_remedy(str(name))}")
    if known is not None and (str(name) in KNOWN or not paths.path_exists(path, "model")):
        return _known_folder(known)
    if paths.path_exists(path, "model"):
        kind = paths.other_kind(path)
        if kind not in (None, "a folder"):
            shown = paths.shown(path)
            raise InputError(f"model: {shown} is {kind}; give a folder, a file or a name")
        return path
    if _is_repository(str(name)):
        return _downloaded(str(name))
    raise InputError(_not_found(str(name)))


def _known_folder(known: KnownModel) -> Path:
    folder = present(known)
    if folder is not None:
        return folder
    source = f"{known.repository}, {known.file}" if known.file else known.repository
    remedy = (
        f"run `kleinod pull {known.name}` ({source}) or put it into $KLEINOD_MODELS/{known.name}"
    )
    if known.repository is None:
        remedy = "install kleinod again, with its package data"
    raise InputError(
        f"model: {known.name} is not on this machine; {remedy} (known: {', '.join(KNOWN)})"
    )


def _is_repository(name: str) -> bool:
    """Whether it looks like owner/name on the Hub."""
    is_file = name.lower().endswith(_WEIGHT_SUFFIXES)
    return not is_file and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name, re.ASCII) is not None


def _downloaded(repository: str) -> Path:
    """A repository's model in the Hub's cache: its folder, or its only weight file."""
    for snapshot in _snapshots(repository):
        if paths.is_readable_file(snapshot / "model_index.json"):
            return snapshot
        files = [file for file in snapshot.iterdir() if file.suffix.lower() in _WEIGHT_SUFFIXES]
        if len(files) == 1:
            return files[0]
        if files:
            names = ", ".join(sorted(file.name for file in files))
            raise InputError(
                f"model: {repository} holds several models ({names}); give the path of one, in "
                f"{snapshot}"
            )
    raise InputError(
        f"model: {paths.shown(repository)} is neither a path nor a repository in the Hub's cache; "
        f"run `kleinod pull {paths.shown(repository)}`, or give a path or one of {', '.join(KNOWN)}"
    )


def _not_found(name: str) -> str:
    """The message for what is neither a path nor a model."""
    shown = paths.shown(name)
    is_path = os.sep in name or name.startswith("~") or Path(name).suffix in _WEIGHT_SUFFIXES
    if is_path:
        return f"model: there is no file or folder {shown}; check the path"
    close = _close_name(name)
    hint = f"did you mean {close}? Known are" if close else "give a path or one of"
    return f"model: {shown} is neither a path nor a known model; {hint} {', '.join(KNOWN)}"


def _close_name(name: str) -> str | None:
    """The known name that was probably meant: klein4b, FLUX.2-klein-4B, Klein_4B."""
    plain = {_plain(known.name): known.name for known in KNOWN.values()}
    plain |= {
        _plain(known.repository.rpartition("/")[2]): known.name
        for known in KNOWN.values()
        if known.repository
    }
    close = get_close_matches(_plain(name.rpartition("/")[2]), plain, n=1, cutoff=0.75)
    return plain[close[0]] if close else None


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def present(known: KnownModel) -> Path | None:
    """The first folder that holds the model: the package's, $KLEINOD_MODELS', the Hub's cache.

    Of a transformer alone its file. What may not be looked at holds none.
    """
    if known.is_transformer_only:
        files = (_weight_file(folder, known.file) for folder in _folders(known))
        return next(filter(None, files), None)
    folders = _folders(known)
    return next((f for f in folders if paths.is_readable_file(f / "model_index.json")), None)


def _folders(known: KnownModel) -> list[Path]:
    """Where a model may lie."""
    if known.repository is None:
        return [Path(__file__).parent / known.name]
    return [*_own_folders(known.name), *_snapshots(known.repository)]


def _weight_file(folder: Path, name: str | None) -> Path | None:
    """The file of that name, or the only weight file that there is."""
    if name is not None and paths.is_readable_file(folder / name):
        return folder / name
    try:
        files = [file for file in folder.iterdir() if file.suffix.lower() in _WEIGHT_SUFFIXES]
    except OSError:
        return None
    return files[0] if len(files) == 1 and paths.is_readable_file(files[0]) else None


def whole_models(size: str | None) -> list[KnownModel]:
    """The models of a size that come with text encoder and autoencoder."""
    return [one for one in KNOWN.values() if one.size == size and not one.is_transformer_only]


def of_file(file: Path) -> KnownModel | None:
    """The known model that a transformer's file is, if `find` gives the file for its name."""
    alone = (known for known in KNOWN.values() if known.is_transformer_only)
    return next((known for known in alone if present(known) == file), None)


def components_folder(known: KnownModel) -> Path | None:
    """The folder with the text encoder and autoencoder for a transformer alone; None: not here."""
    folders = (folder for whole in whole_models(known.size) for folder in _folders(whole))
    names = ("text_encoder", "vae")
    return next(
        (f for f in folders if all(paths.is_readable_file(f / n / "config.json") for n in names)),
        None,
    )


def _own_folders(name: str) -> list[Path]:
    root = os.environ.get("KLEINOD_MODELS")
    return [paths.expand_user(root, "KLEINOD_MODELS") / name] if root else []


def hub_cache() -> Path:
    """Where huggingface-hub keeps its downloads. Raises InputError where there is no home."""
    folder = _hub_cache()
    if folder is None:
        raise InputError("HF_HOME: is not set, and this user has no home folder; set it")
    return folder


def _hub_cache() -> Path | None:
    return _folder("HF_HUB_CACHE", "", "HF_HOME", "hub", "~/.cache/huggingface/hub")


def repository_cache(repository: str) -> Path:
    """Where the Hub's cache keeps a repository."""
    return hub_cache() / _folder_name(repository)


def _folder_name(repository: str) -> str:
    return "models--" + repository.replace("/", "--")


def _snapshots(repository: str) -> list[Path]:
    """Snapshots in the Hub's cache, the one that `main` names first; none where unreadable."""
    cache = _hub_cache()
    if cache is None:
        return []
    folder = cache / _folder_name(repository)
    main = folder / "refs" / "main"
    try:
        snapshots = sorted((folder / "snapshots").glob("[!.]*"))
        revision = main.read_text(encoding="utf-8").strip() if main.is_file() else ""
    except (OSError, ValueError):
        return []
    return sorted(snapshots, key=lambda path: path.name != revision)


def config_folder() -> Path:
    """Where kleinod keeps what it cannot make again: $KLEINOD_HOME, else the user's folder.

    Raises InputError where there is no home folder.
    """
    folder = _folder("KLEINOD_HOME", "", "XDG_CONFIG_HOME", "kleinod", "~/.config/kleinod")
    if folder is None:
        raise InputError(
            "KLEINOD_HOME: is not set, and this user has no home folder; set it to a folder that "
            "kleinod may write (certificates, keys, settings)"
        )
    return folder


def cache_folder() -> Path | None:
    """Where kleinod keeps what it can make again: $KLEINOD_CACHE, else the user's cache folder.

    None if $KLEINOD_CACHE is `off`, or where there is no home folder.
    """
    if os.environ.get("KLEINOD_CACHE") == "off":
        return None
    return _folder("KLEINOD_CACHE", "", "XDG_CACHE_HOME", "kleinod", "~/.cache/kleinod")


def _folder(own: str, below_own: str, base: str, below_base: str, default: str) -> Path | None:
    """The folder of the first variable that is set, else the default; None without a home."""
    for name, below in ((own, below_own), (base, below_base)):
        if value := os.environ.get(name):
            return paths.expand_user(value, name) / below
    try:
        return Path(default).expanduser()
    except RuntimeError:
        return None


def describe(name: str | Path, path: Path, *, titles: Iterable[str] = ()) -> ModelInfo:
    """The facts of the model at path: kleinod.json, model_index.json, then the klein values.

    titles: what a single file calls itself in its header. Where nothing tells its variant,
    `guess_warning` says what was assumed. Raises WeightsError.
    """
    known = known_model(name)
    is_distilled = known.variant != "base" if known else _is_distilled(path, titles)
    info = ModelInfo(
        name=known.name if known else path.stem if path.is_file() else path.resolve().name,
        is_distilled=is_distilled,
        num_inference_steps=4 if is_distilled else 50,
        guidance_scale=1.0 if is_distilled else 4.0,
        license=known.license if known else UNKNOWN_LICENSE,
        vocabulary=Vocabulary.read(path),
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
                    f"{file}: {name} is {quoted(value)}, not {limit}; fetch the model again"
                )
            stated[name] = tuple(value) if isinstance(value, list) else value
    return replace(info, **stated)


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
    if known_model(name) or (path / "model_index.json").is_file():
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
