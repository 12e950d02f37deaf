"""A model folder of a published size with random weights, in the diffusers layout.

Written shard by shard; at most one shard is in memory. The values are slices of one block of normal
numbers, scaled so that activations stay finite: speed and memory do not depend on them.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig, read_json
from kleinod.errors import InputError
from kleinod.memory import available_bytes
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.weights.folders import OWN_TOKENIZER
from kleinod.weights.key_maps import TRANSFORMER, to_diffusers

SHARD_BYTES = 1024**3
BLOCK_NUMBERS = 2**24 + 43
# what a process needs beside the weights at 256 x 256
PROCESS_BYTES = 10**9
# layers that kleinod reads, and that a published file holds
READ_LAYERS, ALL_LAYERS = 27, 36

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}<|im_start|>assistant\n<think>\n\n</think>{{ '\n\n' }}"
)
Shapes = dict[str, Tensor]


@dataclass(frozen=True)
class Geometry:
    """The three components of a model."""

    transformer: TransformerConfig
    text_encoder: TextEncoderConfig
    autoencoder: AutoencoderConfig = AutoencoderConfig()  # noqa: RUF009 - frozen


SIZES = {
    "klein-4b": Geometry(TransformerConfig(), TextEncoderConfig()),
    "klein-9b": Geometry(
        TransformerConfig(
            num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288
        ),
        TextEncoderConfig(hidden_size=4096, intermediate_size=12288),
    ),
}


@dataclass(frozen=True)
class RandomModel:
    """What to write; num_layers of the text encoder."""

    name: str
    geometry: Geometry
    num_layers: int = ALL_LAYERS
    tokenizer: Path = OWN_TOKENIZER

    def shapes(self) -> dict[str, Shapes]:
        """Tensors on the meta device, by component and name."""
        with torch.device("meta"):
            transformer = Transformer(self.geometry.transformer).state_dict()
            autoencoder = Autoencoder(self.geometry.autoencoder).state_dict()
            text = TextEncoder(self.geometry.text_encoder, (self.num_layers,)).state_dict()
            width = self.geometry.text_encoder.hidden_size
            text["model.norm.weight"] = torch.empty(width)
        theirs = to_diffusers(transformer, TRANSFORMER)
        shapes = {name: parts[0] for name, parts in theirs.items()}
        # a swap of halves gives two parts; the module's own shape is the whole
        shapes["norm_out.linear.weight"] = transformer["final_layer.adaLN_modulation.1.weight"]
        return {"transformer": shapes, "vae": autoencoder, "text_encoder": text}

    def num_bytes(self) -> dict[str, int]:
        """Of each component, in bfloat16."""
        return {
            component: sum(2 * tensor.numel() for tensor in shapes.values())
            for component, shapes in self.shapes().items()
        }


@contextmanager
def random_model(
    model: RandomModel,
    folder: Path | None,
    *,
    is_held_whole: bool,
    progress: Callable[[float], None],
) -> Iterator[Path]:
    """Its folder: the given one, which stays, or a temporary one, which goes. Raises InputError.

    is_held_whole: an engine will hold every component at once, not one after the other.
    """
    sizes = model.num_bytes()
    _check_memory(sum(sizes.values()) if is_held_whole else max(sizes.values()), model.name)
    if folder is not None and folder.exists():
        _check_existing(model, folder)
        yield folder
        return
    parent = folder.absolute().parent if folder else Path(tempfile.gettempdir())
    _check_disk(sum(sizes.values()), parent)
    with tempfile.TemporaryDirectory(prefix="kleinod-bench-", dir=parent) as temporary:
        made = Path(temporary) / "model"
        write_model(model, made, progress)
        if folder is not None:
            made.rename(folder)
        yield folder or made


def _check_memory(needed: int, name: str) -> None:
    needed += PROCESS_BYTES
    available = available_bytes()
    if 0 < available < needed:
        raise InputError(
            f"memory: {available / 1e9:.1f} GB are free, random weights of {name}'s size need "
            f"{needed / 1e9:.1f}; close other programs or take a smaller model"
        )


def _check_disk(needed: int, folder: Path) -> None:
    if not folder.is_dir():
        raise InputError(f"folder: {folder} does not exist; make it first")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"disk: {folder} has {free / 1e9:.1f} GB free, the weights need {needed / 1e9:.1f}; "
            "give --folder on another disk, or set $TMPDIR"
        )


def _check_existing(model: RandomModel, folder: Path) -> None:
    """A kept folder must be what is asked for."""
    own = folder / "kleinod.json"
    made = read_json(own) if own.is_file() else {}
    if made.get("name") != f"random-{model.name}":
        raise InputError(f"folder: {folder} exists and holds no random {model.name}; name another")
    if int(made["num_layers"]) < model.num_layers:
        raise InputError(
            f"folder: {folder} holds {made['num_layers']} text layers, {model.num_layers} are "
            "needed to compare; name another"
        )


def write_model(model: RandomModel, folder: Path, progress: Callable[[float], None]) -> None:
    """The whole folder."""
    shapes, done = model.shapes(), 0
    total = sum(model.num_bytes().values())
    numbers = _Numbers()
    for component, tensors in shapes.items():
        stem = "model" if component == "text_encoder" else "diffusion_pytorch_model"
        for written in _write_component(folder / component, stem, tensors, numbers):
            done += written
            progress(done / total)
    _write_tokenizer(folder / "tokenizer", model.tokenizer)
    _write_configs(model, folder)


class _Numbers:
    """Values for tensors by name, from one block of normal numbers."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._block = torch.randn(BLOCK_NUMBERS, generator=generator).bfloat16()

    def values(self, name: str, like: Tensor) -> Tensor:
        """Ones for norms, zeros for biases and means, normal numbers over sqrt(fan in) else."""
        shape = like.shape
        if not like.is_floating_point():
            return torch.zeros(shape, dtype=like.dtype)
        if name.endswith((".bias", "running_mean")):
            return torch.zeros(shape, dtype=torch.bfloat16)
        if len(shape) == 1:
            return torch.ones(shape, dtype=torch.bfloat16)
        scale = 0.02 if "embed_tokens" in name else 0.7 / like[0].numel() ** 0.5
        numbers = self._numbers(sum(name.encode()) * 7919 % BLOCK_NUMBERS, like.numel())
        return (numbers * scale).view(shape)

    def _numbers(self, start: int, count: int) -> Tensor:
        """So many from a place in the block on, over and over."""
        if start + count <= BLOCK_NUMBERS:
            return self._block[start : start + count]
        repeats = -(-(start + count) // BLOCK_NUMBERS)
        return self._block.repeat(repeats)[start : start + count]


def _write_component(folder: Path, stem: str, shapes: Shapes, numbers: _Numbers) -> Iterator[int]:
    """Write the shards, then the index; the bytes of each shard when it is written."""
    folder.mkdir(parents=True)
    shards = list(_shards(shapes))
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05}-of-{len(shards):05}.safetensors"
        save_file({name: numbers.values(name, shapes[name]) for name in names}, folder / file)
        weight_map |= dict.fromkeys(names, file)
        yield sum(2 * shapes[name].numel() for name in names)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _shards(shapes: Shapes) -> Iterator[list[str]]:
    names: list[str] = []
    size = 0
    for name, shape in shapes.items():
        if names and size + 2 * shape.numel() > SHARD_BYTES:
            yield names
            names, size = [], 0
        names.append(name)
        size += 2 * shape.numel()
    yield names


def _write_tokenizer(folder: Path, tokenizer: Path) -> None:
    folder.mkdir()
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    values = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "<|endoftext|>",
        "eos_token": "<|im_end|>",
        "chat_template": CHAT_TEMPLATE,
    }
    _write_json(folder / "tokenizer_config.json", values)


def _write_configs(model: RandomModel, folder: Path) -> None:
    """model_index.json last: its presence says that the folder is complete."""
    geometry = model.geometry
    transformer = vars(geometry.transformer) | {"guidance_embeds": False, "patch_size": 1}
    levels = len(geometry.autoencoder.block_out_channels)
    autoencoder = vars(geometry.autoencoder) | {
        "_class_name": "AutoencoderKLFlux2",
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
    }
    text = vars(geometry.text_encoder) | {"num_hidden_layers": model.num_layers}
    (folder / "scheduler").mkdir()
    own = {"name": f"random-{model.name}", "num_layers": model.num_layers}
    for name, values in (
        ("transformer/config.json", transformer | {"_class_name": "Flux2Transformer2DModel"}),
        ("vae/config.json", autoencoder),
        ("text_encoder/config.json", text | _TEXT_FACTS),
        ("scheduler/scheduler_config.json", _SCHEDULER),
        ("kleinod.json", own),
        ("model_index.json", _INDEX),
    ):
        _write_json(folder / name, values)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2), encoding="utf-8")


_TEXT_FACTS = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "tie_word_embeddings": True,
    "dtype": "bfloat16",
}
_SCHEDULER = {
    "_class_name": "FlowMatchEulerDiscreteScheduler",
    "use_dynamic_shifting": True,
    "time_shift_type": "exponential",
}
_INDEX = {
    "_class_name": "Flux2KleinPipeline",
    "is_distilled": True,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "Qwen3ForCausalLM"],
    "tokenizer": ["transformers", "PreTrainedTokenizerFast"],
    "transformer": ["diffusers", "Flux2Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKLFlux2"],
}
