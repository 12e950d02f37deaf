"""Weights of a file or folder, mapped into memory. Knows nothing about models. No pickle, ever."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from kleinod.config import read_json
from kleinod.errors import WeightsError
from kleinod.quantization.stored import Weight
from kleinod.weights import pieces

SUFFIX = ".safetensors"
GGUF_SUFFIX = ".gguf"
INDEX_SUFFIX = ".safetensors.index.json"


def read_weights(path: Path) -> dict[str, Weight]:
    """Every weight of a component, each layer with its scales in one. Raises WeightsError."""
    files = weight_files(path)
    if files[0].suffix == GGUF_SUFFIX:
        # imported here: most models never need it
        from kleinod.weights.gguf_files import read_gguf

        return read_gguf(files[0])
    tensors = read_tensors(path)
    formats: dict[str, str] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            formats |= pieces.header_formats(opened.metadata(), file)
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
            return _shards(path / (stem + INDEX_SUFFIX))
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


def _shards(index: Path) -> list[Path]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
        raise WeightsError(f"{index}: holds no weight_map of file names; fetch the model again")
    shards = sorted(set(names.values()))
    for name in shards:
        # an index may come from anyone: it names files beside it, nothing else
        if Path(name).name != name or not name.endswith(SUFFIX):
            raise WeightsError(f"{index}: names {name!r}, which is no file beside it; do not use")
        if not (index.parent / name).is_file():
            raise WeightsError(f"{index.parent}: shard {name} is missing; fetch the model again")
    return [index.parent / name for name in shards]
