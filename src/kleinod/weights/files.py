"""Weights of a file or folder, mapped into memory. Knows nothing about models. No pickle, ever."""

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kleinod.errors import WeightsError
from kleinod.quantization.stored import Weight
from kleinod.weights import prefixes, quantized_layers
from kleinod.weights.headers import Header, read_header
from kleinod.weights.listing import num_bytes as num_bytes
from kleinod.weights.listing import weight_files as weight_files


def read_weights(path: Path, component: str | None = None) -> dict[str, Weight]:
    """Every weight of a component, each layer with its scales in one. Raises WeightsError.

    component: take the tensors of this one by their own names, without what programs put before
    them (prefixes.py); None: all tensors, by the file's names.
    """
    files = weight_files(path)
    # before anything else opens them: they may come from anyone
    headers = [read_header(file) for file in files]
    if any(header.format == "gguf" for header in headers):
        # imported here: most models never need it
        from kleinod.weights.gguf_files import read_gguf

        if len(files) > 1:
            raise WeightsError(f"{path}: holds {len(files)} weight files, some GGUF; name one")
        weights = read_gguf(files[0])
        own = _own_names(list(weights), component, path)
        return {own[name]: weight for name, weight in weights.items() if name in own}
    tensors = read_tensors(path)
    own = _own_names(list(tensors), component, path)
    formats: dict[str, str] = {}
    for file, header in zip(files, headers, strict=True):
        formats |= _formats(header, component, file)
    chosen = {own[name]: tensor for name, tensor in tensors.items() if name in own}
    return quantized_layers.assembled(chosen, formats, path)


def _own_names(names: list[str], component: str | None, path: Path) -> dict[str, str]:
    """Own names by file's name. Raises WeightsError where two tensors are the same one."""
    if component is None:
        return {name: name for name in names}
    own = prefixes.chosen(names, component)
    twice = prefixes.duplicate(own)
    if twice:
        raise WeightsError(
            f"{path}: has tensor {twice} twice, under different prefixes; keep one of them"
        )
    return own


def _formats(header: Header, component: str | None, file: Path) -> dict[str, str]:
    """The formats that a header states, by the layer's own name."""
    formats = quantized_layers.header_formats(header.metadata, file)
    if component is None or not formats:
        return formats
    own = prefixes.chosen([f"{layer}.weight" for layer in formats], component)
    stems = {
        full.removesuffix(".weight"): name.removesuffix(".weight") for full, name in own.items()
    }
    return {stem: formats[layer] for layer, stem in stems.items()}


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
