"""Small random models, made and saved by the oracles (diffusers, transformers)."""

from pathlib import Path

import numpy as np
import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
)
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

# One user turn, then the empty thoughts: what the published template renders for a prompt.
# The end is an expression, because jinja drops a template's last newline.
CHAT_TEMPLATE = (
    "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>{{ '\n\n' }}"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and the special tokens, with klein's chat template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def transformer(context: int = 96) -> Flux2Transformer2DModel:
    """Width 64, two double and three single blocks."""
    return Flux2Transformer2DModel(
        in_channels=128,
        guidance_embeds=False,
        num_layers=2,
        num_single_layers=3,
        num_attention_heads=2,
        attention_head_dim=32,
        joint_attention_dim=context,
        axes_dims_rope=(8, 8, 8, 8),
    )


def autoencoder(decoder_dims: tuple[int, ...] | None = None) -> AutoencoderKLFlux2:
    """Four levels, 32 norm groups as published, statistics that are not the identity."""
    model = AutoencoderKLFlux2(
        block_out_channels=(32, 32, 64, 64),
        decoder_block_out_channels=decoder_dims,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    model.bn.running_mean.normal_()
    model.bn.running_var.uniform_(0.5, 2)
    return model.eval()


def text_encoder(*, is_tied: bool = True) -> Qwen3ForCausalLM:
    """Width 32, 29 layers: two more than are read."""
    config = Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=29,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=is_tied,
    )
    return Qwen3ForCausalLM(config).eval()


def oracle(*, is_distilled: bool = True) -> Flux2KleinPipeline:
    """The whole reference pipeline."""
    torch.manual_seed(0)
    pipeline = Flux2KleinPipeline(
        is_distilled=is_distilled,
        transformer=transformer().eval(),
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="exponential"
        ),
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def saved(folder: Path, *, is_distilled: bool = True) -> Path:
    """A folder in the diffusers layout, written by diffusers."""
    oracle(is_distilled=is_distilled).save_pretrained(folder)
    return folder


def picture(width: int, height: int) -> Image.Image:
    """Colourful noise."""
    random = np.random.default_rng(0)
    return Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
