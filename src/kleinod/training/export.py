"""Write a trained model as a diffusers folder: what kleinod ships, and what diffusers itself loads.

Tensors in bfloat16, in files under `SHARD_BYTES`. `kleinod.json` says what no configuration of
diffusers has a place for: the text layers read, the text length, the native size.
"""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kleinod import vocabulary
from kleinod.catalog import ModelInfo
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.errors import NumericalError
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.training.flow import Flow
from kleinod.vocabulary import Vocabulary
from kleinod.weights.key_maps import TRANSFORMER, to_diffusers

SHARD_BYTES = 15 * 2**20
_STEM = "diffusion_pytorch_model"


def export(flow: Flow, autoencoder: Autoencoder, folder: Path, info: ModelInfo) -> None:
    """Write every component but the tokenizer, which lies there already; `info` → kleinod.json.

    Raises NumericalError, before anything is written, for weights that are not finite.
    """
    _check_finite(flow)
    transformer = to_diffusers(flow.transformer.state_dict(), TRANSFORMER)
    joined = {name: torch.cat(parts) for name, parts in transformer.items()}
    _write(folder / "transformer", joined, _STEM, _transformer_config(flow.transformer.config))
    _write(folder / "vae", autoencoder.state_dict(), _STEM, _autoencoder_config(autoencoder.config))
    text = flow.text_encoder
    _write(folder / "text_encoder", _text_tensors(text), "model", _text_config(text.config))
    _json(folder / "scheduler" / "scheduler_config.json", _SCHEDULER)
    facts = asdict(replace(info, vocabulary=None))
    del facts["vocabulary"]  # a file of its own
    _json(folder / "model_index.json", _INDEX | {"is_distilled": facts.pop("is_distilled")})
    _json(folder / "kleinod.json", facts)
    _write_vocabulary(folder / vocabulary.FILE_NAME, info.vocabulary)


def _write_vocabulary(path: Path, known: Vocabulary | None) -> None:
    """What a model that lay there before knew must not stay."""
    path.unlink(missing_ok=True)
    if known is not None:
        path.write_text(known.file_text(), encoding="utf-8")


def _check_finite(flow: Flow) -> None:
    for name, tensor in flow.state_dict().items():
        # as they are written: bfloat16 rounds the largest float32 numbers to infinity
        if tensor.is_floating_point() and not tensor.bfloat16().isfinite().all():
            raise NumericalError(
                f"training: {name} holds values that are not finite, and no model is written; set "
                "a smaller learning rate (learning_rate, muon_rate) and a new run folder"
            )


def _text_tensors(text: TextEncoder) -> dict[str, Tensor]:
    """The encoder's tensors, an empty layer and the final norm that nobody reads.

    transformers normalises its last hidden state, so the last layer read must not be the last.
    """
    tensors = dict(text.state_dict())
    depth = max(text.layers_read)
    last = f"model.layers.{depth - 1}."
    for name, tensor in text.state_dict().items():
        if name.startswith(last):
            tensors[f"model.layers.{depth}.{name.removeprefix(last)}"] = torch.zeros_like(tensor)
    tensors["model.norm.weight"] = torch.ones(text.config.hidden_size)
    return tensors


def _write(folder: Path, tensors: dict[str, Tensor], stem: str, config: dict[str, Any]) -> None:
    """config.json and the tensors, sharded when they are over one file's limit."""
    _json(folder / "config.json", config)
    narrow = {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()}
    narrow = {name: tensor.contiguous() for name, tensor in narrow.items()}
    shards: list[dict[str, Tensor]] = [{}]
    room = SHARD_BYTES
    for name, tensor in narrow.items():
        if tensor.nbytes > room and shards[-1]:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = tensor
        room -= tensor.nbytes
    for old in folder.glob("*.safetensors*"):
        old.unlink()
    if len(shards) == 1:
        save_file(shards[0], folder / f"{stem}.safetensors", {"format": "pt"})
        return
    places: dict[str, str] = {}
    for index, shard in enumerate(shards, start=1):
        file = f"{stem}-{index:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, folder / file, {"format": "pt"})
        places |= dict.fromkeys(shard, file)
    total = sum(tensor.nbytes for tensor in narrow.values())
    index_file = {"metadata": {"total_size": total}, "weight_map": places}
    _json(folder / f"{stem}.safetensors.index.json", index_file)


def _json(path: Path, values: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _transformer_config(config: TransformerConfig) -> dict[str, Any]:
    values = asdict(config) | {"axes_dims_rope": list(config.axes_dims_rope)}
    fixed = {"patch_size": 1, "out_channels": None, "guidance_embeds": False}
    return {"_class_name": "Flux2Transformer2DModel"} | values | fixed


def _autoencoder_config(config: AutoencoderConfig) -> dict[str, Any]:
    levels = len(config.block_out_channels)
    values = {name: value for name, value in asdict(config).items() if value is not None}
    return (
        {"_class_name": "AutoencoderKLFlux2"}
        | values
        | {
            "block_out_channels": list(config.block_out_channels),
            "out_channels": config.in_channels,
            "down_block_types": ["DownEncoderBlock2D"] * levels,
            "up_block_types": ["UpDecoderBlock2D"] * levels,
            "patch_size": [2, 2],
            "act_fn": "silu",
            "use_quant_conv": True,
            "use_post_quant_conv": True,
        }
    )


def _text_config(config: TextEncoderConfig) -> dict[str, Any]:
    values = asdict(config) | {"num_hidden_layers": config.num_hidden_layers + 1}
    theta = values.pop("rope_theta")
    return values | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "hidden_act": "silu",
        "max_position_embeddings": 512,
        "rope_theta": theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "tie_word_embeddings": True,
        "use_cache": False,
        "torch_dtype": "bfloat16",
    }


_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "shift": 3.0,
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
}
_INDEX = {
    "_class_name": "Flux2KleinPipeline",
    "_diffusers_version": "0.42.1",
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "Qwen2TokenizerFast"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}
