"""Which files hold a component. No torch in here."""

from pathlib import Path

from kleinod.errors import WeightsError
from kleinod.weights.headers import GGUF_SUFFIX, INDEX_SUFFIX, SUFFIX, file_error, read_index

# the published names first: a variant such as model.fp16.safetensors may lie beside them
_PUBLISHED = ("diffusion_pytorch_model", "model")


def is_visible(name: str) -> bool:
    """Whether a folder's file counts: `._model.safetensors` is macOS' note beside another file."""
    return not name.startswith(".")


def weights_in(folder: Path) -> list[Path]:
    """The visible weight files of a folder by their endings, sorted. Raises WeightsError."""
    try:
        names = [path for path in folder.iterdir() if is_visible(path.name)]
    except OSError as error:
        raise WeightsError(f"{folder}: cannot be read ({error}); check the path") from error
    return sorted(path for path in names if path.name.lower().endswith((SUFFIX, GGUF_SUFFIX)))


def weight_files(path: Path) -> list[Path]:
    """The files that hold a component; an index decides where there is one. Raises WeightsError.

    A file that is given is taken whatever its name: its contents tell what it is.
    """
    try:
        files = _of_folder(path) if path.is_dir() else [path]
        missing = [file for file in files if not file.is_file()]
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); check the path") from error
    if missing:
        raise file_error(missing[0])
    return files


def _of_folder(folder: Path) -> list[Path]:
    for stem in _PUBLISHED:
        if (folder / (stem + INDEX_SUFFIX)).is_file():
            names = read_index(folder / (stem + INDEX_SUFFIX)).values()
            return [folder / name for name in sorted(set(names))]
        if (folder / (stem + SUFFIX)).is_file():
            return [folder / (stem + SUFFIX)]
    found = weights_in(folder)
    files = [file for file in found if file.name.lower().endswith(SUFFIX)] or found
    if not files:
        raise WeightsError(f"{folder}: holds no {SUFFIX} file; fetch the model again")
    if files[0].name.lower().endswith(GGUF_SUFFIX) and len(files) > 1:
        raise WeightsError(f"{folder}: holds {len(files)} {GGUF_SUFFIX} files; name one of them")
    return files


def num_bytes(path: Path) -> int:
    """Size of a component's files."""
    return sum(file.stat().st_size for file in weight_files(path))
