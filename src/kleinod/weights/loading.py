"""Components from files, strictly: meta device first, then the mapped tensors are assigned."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.errors import WeightsError
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.weights.keys import diffusers_to_bfl


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file. Raises WeightsError."""
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); fetch the model again") from error
    return values


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a component's folder, sharded or not. Raises WeightsError."""
    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        names = set(read_json(index)["weight_map"].values())
        missing = sorted(names - {file.name for file in files})
        if missing:
            raise WeightsError(f"{folder}: shard {missing[0]} is missing; fetch the model again")
        files = [file for file in files if file.name in names]
    if not files:
        raise WeightsError(f"{folder}: holds no .safetensors file; fetch the model again")
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            tensors |= load_file(file)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a whole safetensors file ({error})") from error
    return tensors


def _fill(module: nn.Module, tensors: dict[str, Tensor], dtype: torch.dtype, what: Path) -> None:
    expected = module.state_dict()
    for problem, names in (
        ("lacks", expected.keys() - tensors.keys()),
        ("has the unknown", tensors.keys() - expected.keys()),
    ):
        if names:
            raise WeightsError(f"{what}: {problem} tensor {min(names)} ({len(names)} in all)")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            shapes = f"{list(tensor.shape)}, not {list(expected[name].shape)}"
            raise WeightsError(f"{what}: tensor {name} has shape {shapes}")
    cast = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
    module.load_state_dict(cast, strict=True, assign=True)
    module.eval().requires_grad_(False)


def load_transformer(folder: Path, dtype: torch.dtype) -> Transformer:
    """The transformer of a diffusers folder."""
    config = TransformerConfig.from_dict(read_json(folder / "config.json"))
    with torch.device("meta"):
        module = Transformer(config)
    _fill(module, diffusers_to_bfl(read_tensors(folder)), dtype, folder)
    return module


def load_autoencoder(folder: Path, dtype: torch.dtype) -> Autoencoder:
    """The autoencoder of a diffusers folder."""
    config = AutoencoderConfig.from_dict(read_json(folder / "config.json"))
    with torch.device("meta"):
        module = Autoencoder(config)
    _fill(module, read_tensors(folder), dtype, folder)
    return module


def load_text_encoder(folder: Path, dtype: torch.dtype, layers: tuple[int, ...]) -> TextEncoder:
    """The text encoder of a transformers folder; blocks past the last one read are left out."""
    values = read_json(folder / "config.json")
    values |= {k: v for k, v in (values.get("rope_parameters") or {}).items() if k == "rope_theta"}
    with torch.device("meta"):
        module = TextEncoder(TextEncoderConfig.from_dict(values), layers)
    tensors = read_tensors(folder)
    past_last = tuple(
        f"model.layers.{n}." for n in range(max(layers), module.config.num_hidden_layers)
    )
    unread = ("lm_head.weight", "model.norm.weight", *past_last)
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith(unread)}
    _fill(module, kept, dtype, folder)
    return module
