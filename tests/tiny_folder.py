"""A tiny random model in a folder, written without the oracles: for tests that need any model."""

import dataclasses
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer

DEFAULT_SIZE = 96
TEXT_LAYERS = (1, 2, 3)
TRANSFORMER = TransformerConfig(
    num_layers=1,
    num_single_layers=1,
    num_attention_heads=2,
    attention_head_dim=32,
    joint_attention_dim=96,
    axes_dims_rope=(8, 8, 8, 8),
)
AUTOENCODER = AutoencoderConfig(block_out_channels=(16, 16, 16, 16), norm_num_groups=8)
TEXT_ENCODER = TextEncoderConfig(
    vocab_size=300,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def save_tiny_model(folder: Path, *, name: str = "tiny", is_distilled: bool = True) -> Path:
    """Write the four components and the two index files; the same weights each time."""
    torch.manual_seed(0)
    _save(folder / "transformer", Transformer(TRANSFORMER), TRANSFORMER)
    _save(folder / "vae", Autoencoder(AUTOENCODER), AUTOENCODER)
    _save(folder / "text_encoder", TextEncoder(TEXT_ENCODER, TEXT_LAYERS), TEXT_ENCODER)
    (folder / "tokenizer").mkdir()
    _tokenizer().save(str(folder / "tokenizer" / "tokenizer.json"))
    _write_json(folder / "model_index.json", {"is_distilled": is_distilled})
    own = {
        "name": name,
        "text_layers": TEXT_LAYERS,
        "max_text_tokens": 32,
        "default_size": DEFAULT_SIZE,
        "num_inference_steps": 2,
        "license": "Apache-2.0",
    }
    _write_json(folder / "kleinod.json", own)
    return folder


def _save(folder: Path, module: nn.Module, config: object) -> None:
    folder.mkdir(parents=True)
    save_file(module.state_dict(), folder / "model.safetensors")
    _write_json(folder / "config.json", dataclasses.asdict(config))


def _write_json(path: Path, values: dict[str, object]) -> None:
    path.write_text(json.dumps(values), encoding="utf-8")


def _tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.add_special_tokens(SPECIAL_TOKENS)
    return backend
