"""A model folder of the real klein-4b size with random weights, in the diffusers layout.

Written shard by shard; at most one shard is in memory. The values are slices of one block of normal
numbers, scaled so that activations stay finite: speed and memory do not depend on them.
"""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.weights.keys import TRANSFORMER, to_diffusers

SHARD_BYTES = 1024**3
BLOCK_NUMBERS = 2**24 + 43
# 27 are read; the file holds all
TEXT_LAYERS = 36

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n<think>\n\n</think>{{ '\n\n' }}"
)


def write_model(folder: Path, tokenizer: Path) -> None:
    """The whole folder; one that is complete already is left alone."""
    if (folder / "model_index.json").is_file():
        return
    with torch.device("meta"):
        transformer = Transformer(TransformerConfig()).state_dict()
        autoencoder = Autoencoder(AutoencoderConfig()).state_dict()
        text = TextEncoder(TextEncoderConfig(), (TEXT_LAYERS,)).state_dict()
    text["model.norm.weight"] = torch.empty(TextEncoderConfig.hidden_size, device="meta")
    shapes = {name: parts[0] for name, parts in to_diffusers(transformer, TRANSFORMER).items()}
    # a swap of halves gives two parts; the module's own shape is the whole
    shapes["norm_out.linear.weight"] = transformer["final_layer.adaLN_modulation.1.weight"]
    _write_component(folder / "transformer", "diffusion_pytorch_model", shapes)
    _write_component(folder / "vae", "diffusion_pytorch_model", autoencoder)
    _write_component(folder / "text_encoder", "model", text)
    _write_tokenizer(folder / "tokenizer", tokenizer)
    _write_configs(folder)


def _write_component(folder: Path, stem: str, shapes: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(shapes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: _values(name, shapes[name]) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index))


def _shards(shapes: dict[str, Tensor]) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + 2 * shape.numel() > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * shape.numel()
    yield names


_block = torch.empty(0)


def _values(name: str, like: Tensor) -> Tensor:
    """Ones for norms, zeros for biases and means, normal numbers over sqrt(fan in) else."""
    shape = like.shape
    if not like.is_floating_point():
        return torch.zeros(shape, dtype=like.dtype)
    if name.endswith((".bias", "running_mean")):
        return torch.zeros(shape, dtype=torch.bfloat16)
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    scale = 0.02 if "embed_tokens" in name else 0.7 / like[0].numel() ** 0.5
    return (_numbers(name, like.numel()) * scale).view(shape)


def _numbers(name: str, count: int) -> Tensor:
    """The block, rotated by the name, repeated as often as it takes; bfloat16."""
    global _block
    if not len(_block):
        generator = torch.Generator().manual_seed(0)
        _block = torch.randn(BLOCK_NUMBERS, generator=generator).bfloat16()
    rotated = _block.roll(sum(name.encode()) * 7919 % BLOCK_NUMBERS)
    return rotated.repeat(-(-count // BLOCK_NUMBERS))[:count]


def _write_tokenizer(folder: Path, tokenizer: Path) -> None:
    folder.mkdir(exist_ok=True)
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(values))


def _write_configs(folder: Path) -> None:
    """model_index.json last: its presence says that the folder is complete."""
    transformer = vars(TransformerConfig()) | {"guidance_embeds": False, "patch_size": 1}
    transformer["_class_name"] = "Flux2Transformer2DModel"
    levels = len(AutoencoderConfig().block_out_channels)
    autoencoder = vars(AutoencoderConfig()) | {
        "_class_name": "AutoencoderKLFlux2",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    text = vars(TextEncoderConfig()) | {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "tie_word_embeddings": True,
        "dtype": "bfloat16",
    }
    scheduler = {
        "_class_name": "FlowMatchEulerDiscreteScheduler",
        "use_dynamic_shifting": True,
        "time_shift_type": "exponential",
    }
    index = {
        "_class_name": "Flux2KleinPipeline",
        "is_distilled": True,
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Qwen3ForCausalLM"],
        "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    }
    (folder / "scheduler").mkdir(exist_ok=True)
    for name, values in (
        ("transformer/config.json", transformer),
        ("vae/config.json", autoencoder),
        ("text_encoder/config.json", text),
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
    ):
        (folder / name).write_text(json.dumps(values, indent=2))
