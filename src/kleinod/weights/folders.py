"""Where the components of a model lie: in its folder, in one file, or given one by one. No torch.

Each file that is given by itself is checked to be what it is given as, from its header.
"""

from collections.abc import Container
from dataclasses import dataclass, replace
from pathlib import Path

from kleinod import catalog, paths
from kleinod.errors import InputError
from kleinod.request import Components
from kleinod.weights.kinds import check_kind
from kleinod.weights.prefixes import AUTOENCODER, TEXT_ENCODER, TRANSFORMER

OWN_TOKENIZER = Path(__file__).parent.parent / "qwen_tokenizer" / "tokenizer.json"


@dataclass(frozen=True)
class ModelPaths:
    """A file or a folder for each component.

    own_autoencoder: the model's, where another one is given: a decoder without the latents'
    statistics takes them from there.
    """

    transformer: Path
    text_encoder: Path
    autoencoder: Path
    tokenizer: Path
    own_autoencoder: Path | None = None


def model_paths(model: Path, components: Components) -> ModelPaths:
    """Where each component lies; a given one wins over the model's own. Raises InputError.

    A checkpoint, a file of several components, is the path of each component in it.
    """
    is_file = model.is_file()
    components = _with_published(model, components) if is_file else components
    if not is_file and not (model / "model_index.json").is_file():
        raise not_a_model(model)
    if not is_file and not (model / "transformer").is_dir():
        raise InputError(f"transformer: {model / 'transformer'} is missing; fetch the model again")
    inside = check_kind(model, TRANSFORMER) if is_file else ()
    text_encoder = _component(TEXT_ENCODER, components.text_encoder, model, inside)
    autoencoder = _component(AUTOENCODER, components.autoencoder, model, inside)
    return ModelPaths(
        transformer=model if is_file else model / "transformer",
        text_encoder=text_encoder,
        autoencoder=autoencoder,
        tokenizer=_tokenizer(components.tokenizer, model, text_encoder),
        own_autoencoder=_own_autoencoder(model, inside),
    )


def _with_published(model: Path, components: Components) -> Components:
    """The parts that are not given, for a published file. Raises InputError where there are none.

    Its text encoder, autoencoder and tokenizer are those of the whole model of its size.
    """
    known = catalog.of_file(model)
    if known is None or (components.text_encoder and components.autoencoder):
        return components
    folder = catalog.components_folder(known)
    if folder is None:
        raise InputError(
            f"model: {known.name} is a transformer only; run `kleinod pull {known.name}` for its "
            "text encoder and autoencoder, or give --text-encoder and --autoencoder"
        )
    text_encoder = components.text_encoder or folder / "text_encoder"
    return replace(
        components,
        text_encoder=text_encoder,
        autoencoder=components.autoencoder or folder / "vae",
    )


def _own_autoencoder(model: Path, inside: Container[str]) -> Path | None:
    if AUTOENCODER in inside:
        return model
    folder = model / _FOLDERS[AUTOENCODER]
    return folder if folder.is_dir() else None


_FOLDERS = {TEXT_ENCODER: "text_encoder", AUTOENCODER: "vae"}


def not_a_model(model: Path) -> InputError:
    """The error for a folder that is no model: why, and what to give instead."""
    shown = paths.shown(model)
    if model.is_symlink() and not model.exists():
        return InputError(f"model: {shown} is a link that leads nowhere; check the path")
    if not model.exists():
        return InputError(f"model: {shown} does not exist; check the path")
    remedy = "give a folder in the diffusers layout or a transformer's .safetensors or .gguf file"
    if (model.absolute().parent / "model_index.json").is_file():
        remedy = f"it is a part of {model.absolute().parent}, give that"
    return InputError(f"model: {shown} holds no model_index.json; {remedy}")


def _component(name: str, given: str | Path | None, model: Path, inside: Container[str]) -> Path:
    if given is not None:
        path = _existing(name, given)
        check_kind(path, name)
        return path
    if name in inside:
        return model
    if model.is_file():
        option, rest = name.replace("_", "-"), "a transformer only"
        if inside:
            rest = f"a checkpoint without {name.replace('_', ' ')}"
        raise InputError(f"{name}: {model.name} is {rest}; give --{option} PATH")
    folder = model / _FOLDERS[name]
    if not folder.is_dir():
        raise InputError(f"{name}: {folder} is missing; fetch the model again")
    return folder


def _existing(name: str, given: str | Path) -> Path:
    """The path, `~` being the user's folder. Raises InputError if nothing is there."""
    path, text = paths.expand_user(given, name), paths.shown(given)
    if not str(given):
        raise InputError(f"{name}: the path is empty; give a file or a folder")
    if paths.is_url(given):
        raise InputError(f"{name}: {text} is a URL; download it, then give its path")
    if not paths.path_exists(path, name):
        raise InputError(f"{name}: {text} does not exist; give a file or a folder")
    if (kind := paths.other_kind(path)) not in (None, "a folder"):
        raise InputError(f"{name}: {text} is {kind}; give a file or a folder")
    return path


def _tokenizer_file(folder: Path) -> Path | None:
    """tokenizer.json, or vocab.json if merges.txt lies beside it."""
    if (folder / "tokenizer.json").is_file():
        return folder / "tokenizer.json"
    is_apart = all((folder / name).is_file() for name in ("vocab.json", "merges.txt"))
    return folder / "vocab.json" if is_apart else None


def _tokenizer(given: str | Path | None, model: Path, text_encoder: Path) -> Path:
    """The given one, the folder's, the one beside the text encoder, or for split files our own."""
    if given is not None:
        path = _existing("tokenizer", given)
        file = _tokenizer_file(path) if path.is_dir() else path
        if file is None:
            raise InputError(
                f"tokenizer: {path} holds no tokenizer.json, nor vocab.json and merges.txt; "
                "give a folder that does"
            )
        return file
    for folder in (model / "tokenizer", text_encoder, text_encoder.parent / "tokenizer"):
        file = _tokenizer_file(folder)
        if file is not None:
            return file
    if model.is_file():
        return OWN_TOKENIZER
    missing = model / "tokenizer" / "tokenizer.json"
    raise InputError(f"tokenizer: {missing} is missing; give --tokenizer PATH")
