"""Where the components of a model lie: in its folder, or given one by one. No torch in here."""

from dataclasses import dataclass, replace
from pathlib import Path

from kleinod import catalog
from kleinod.errors import InputError
from kleinod.request import Components

OWN_TOKENIZER = Path(__file__).parent.parent / "qwen_tokenizer" / "tokenizer.json"


@dataclass(frozen=True)
class ModelPaths:
    """A file or a folder for each component."""

    transformer: Path
    text_encoder: Path
    autoencoder: Path
    tokenizer: Path


def model_paths(model: Path, components: Components) -> ModelPaths:
    """Where each component lies; a given one wins over the folder's. Raises InputError."""
    is_split = model.is_file()
    components = _with_published(model, components) if is_split else components
    if not is_split and not (model / "model_index.json").is_file():
        raise InputError(
            f"model: {model} holds no model_index.json; give a folder in the diffusers layout "
            "or a transformer's .safetensors or .gguf file"
        )
    text_encoder = _component("text_encoder", components.text_encoder, model, "text_encoder")
    return ModelPaths(
        transformer=model if is_split else model / "transformer",
        text_encoder=text_encoder,
        autoencoder=_component("autoencoder", components.autoencoder, model, "vae"),
        tokenizer=_tokenizer(components.tokenizer, model, text_encoder),
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


def _component(name: str, given: str | Path | None, model: Path, folder: str) -> Path:
    if given is not None:
        return _existing(name, Path(given))
    if model.is_file():
        option = name.replace("_", "-")
        raise InputError(f"{name}: {model.name} is a transformer only; give --{option} PATH")
    if not (model / folder).is_dir():
        raise InputError(f"{name}: {model / folder} is missing; fetch the model again")
    return model / folder


def _existing(name: str, path: Path) -> Path:
    if not path.exists():
        raise InputError(f"{name}: {path} does not exist; give a file or a folder")
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
        path = _existing("tokenizer", Path(given))
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
