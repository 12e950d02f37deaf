"""The finished picture equals diffusers' within one grey level, in float32, on random weights.

One level, because the sums run in another order and the last rounding may fall either way;
seen: 1.
"""

from pathlib import Path

import numpy as np
import pytest
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

import kleinod
from kleinod.pipeline import Pipeline

# one user turn, then the empty thoughts: what the published template renders for a prompt
CHAT_TEMPLATE = (
    "<|im_start|>user\n{{ messages[0].content }}<|im_end|>\n"
    "<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"]


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL_TOKENS)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<|endoftext|>", chat_template=CHAT_TEMPLATE
    )


def _components() -> dict[str, object]:
    torch.manual_seed(0)
    transformer = Flux2Transformer2DModel(
        in_channels=128,
        guidance_embeds=False,
        num_layers=2,
        num_single_layers=2,
        num_attention_heads=2,
        attention_head_dim=32,
        joint_attention_dim=96,
        axes_dims_rope=(8, 8, 8, 8),
    )
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(16, 16, 32, 32),
        norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    language = Qwen3Config(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=29,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
    )
    return {
        "transformer": transformer,
        "vae": autoencoder,
        "text_encoder": Qwen3ForCausalLM(language),
        "tokenizer": _tokenizer(),
        "scheduler": FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, time_shift_type="exponential"
        ),
    }


@pytest.fixture(scope="module", params=[True, False], ids=["distilled", "base"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Flux2KleinPipeline, Pipeline]:
    """The oracle, and ours loaded from the folder that the oracle saved."""
    oracle = Flux2KleinPipeline(is_distilled=request.param, **_components())
    oracle.set_progress_bar_config(disable=True)
    folder: Path = tmp_path_factory.mktemp("klein")
    oracle.save_pretrained(folder)
    return oracle, kleinod.load(folder, dtype=torch.float32)


def _references(count: int) -> list[Image.Image]:
    random = np.random.default_rng(0)
    sizes = ((333, 517), (100, 90), (200, 77), (65, 129))[:count]
    return [
        Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for width, height in sizes
    ]


@pytest.mark.parametrize(
    ("prompts", "num_images", "steps", "size", "num_references"),
    [
        (["a cat"], 1, 4, (128, 96), 0),
        ([""], 1, 1, (64, 64), 0),
        (["雪 кот " * 600], 1, 8, (64, 128), 0),
        (["a"], 1, 2, (64, 64), 1),
        (["a"], 1, 2, (96, 64), 2),
        (["a"], 1, 2, (64, 64), 4),
        (["a"], 1, 1, None, 1),
        (["a cat", "{} dog"], 2, 2, (64, 64), 0),
    ],
)
def test_picture_equals_diffusers(
    pair: tuple[Flux2KleinPipeline, Pipeline],
    prompts: list[str],
    num_images: int,
    steps: int,
    size: tuple[int, int] | None,
    num_references: int,
) -> None:
    oracle, ours = pair
    references = _references(num_references)
    shape = {} if size is None else {"width": size[0], "height": size[1]}
    seeds = range(5, 5 + len(prompts) * num_images)
    expected = oracle(
        prompt=prompts,
        image=references or None,
        num_images_per_prompt=num_images,
        num_inference_steps=steps,
        guidance_scale=1.0 if ours.info.is_distilled else 4.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        **shape,
    ).images
    result = ours.generate(
        tuple(prompts),
        reference_images=tuple(references),
        num_inference_steps=steps,
        num_images=num_images,
        seed=5,
        **shape,
    )
    for mine, theirs in zip(result.images, expected, strict=True):
        difference = np.asarray(mine.image, dtype=int) - np.asarray(theirs, dtype=int)
        assert np.abs(difference).max() <= 1


def test_steps_leave_the_callers_gradients_alone(pair: tuple[object, Pipeline]) -> None:
    request = kleinod.Request("a cat", width=64, height=64, num_inference_steps=2, seed=0)
    for _ in pair[1].steps(request):
        assert not torch.is_inference_mode_enabled()
