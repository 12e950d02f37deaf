"""Weights of a file or folder, mapped into memory. Knows nothing about models. No pickle, ever."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kleinod.errors import WeightsError
from kleinod.quantization.stored import Weight
from kleinod.weights import pieces
from kleinod.weights.headers import (
    GGUF_SUFFIX,
    INDEX_SUFFIX,
    SUFFIX,
    read_header,
    read_index,
)


def read_weights(path: Path) -> dict[str, Weight]:
    """Every weight of a component, each layer with its scales in one. Raises WeightsError."""
    files = weight_files(path)
    # before anything else opens them: they may come from anyone
    headers = [read_header(file) for file in files]
    if files[0].suffix == GGUF_SUFFIX:
        # imported here: most models never need it
        from kleinod.weights.gguf_files import read_gguf

        return read_gguf(files[0])
    tensors = read_tensors(path)
    formats: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        formats |= pieces.header_formats(header.metadata, file)
    return pieces.assembled(tensors, formats, path)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a safetensors file or a folder, sharded or not. Raises WeightsError."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(path):
        try:
            found = load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(
                f"{file}: not a whole safetensors file ({error}); fetch it again"
            ) from error
        twice = tensors.keys() & found.keys()
        if twice:
            raise WeightsError(f"{path}: tensor {min(twice)} is in two files; keep one of them")
        tensors |= found
    return tensors


def weight_files(path: Path) -> list[Path]:
    """The files that hold a component; an index decides where there is one. Raises WeightsError."""
    if path.is_file():
        if path.suffix not in (SUFFIX, GGUF_SUFFIX):
            raise WeightsError(f"{path}: no {SUFFIX} or {GGUF_SUFFIX} file; only those are read")
        return [path]
    if not path.is_dir():
        raise WeightsError(f"{path}: is missing; fetch the model again")
    # the published names first: a variant such as model.fp16.safetensors may lie beside them
    for stem in ("diffusion_pytorch_model", "model"):
        if (path / (stem + INDEX_SUFFIX)).is_file():
            names = read_index(path / (stem + INDEX_SUFFIX)).values()
            return [path / name for name in sorted(set(names))]
        if (path / (stem + SUFFIX)).is_file():
            return [path / (stem + SUFFIX)]
    files = sorted(path.glob("*" + SUFFIX)) or sorted(path.glob("*" + GGUF_SUFFIX))
    if not files:
        raise WeightsError(f"{path}: holds no {SUFFIX} file; fetch the model again")
    if files[0].suffix == GGUF_SUFFIX and len(files) > 1:
        raise WeightsError(f"{path}: holds {len(files)} {GGUF_SUFFIX} files; name one of them")
    return files


def num_bytes(path: Path) -> int:
    """Size of a component's files."""
    return sum(file.stat().st_size for file in weight_files(path))
