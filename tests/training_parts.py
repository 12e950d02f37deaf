"""Tiny things to train in tests: three drawn shapes, small models, pools of their scenes."""

from pathlib import Path

import numpy as np

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.icons.edits import Editor
from kleinod.icons.icons import Icons
from kleinod.icons.scenes import Composer, Example, drawing
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.training.compact_tokenizer import train_tokenizer
from kleinod.training.flow import Flow
from kleinod.training.flow_stage import FlowRecipe
from kleinod.training.pool import Pool, Tools

NAMES = ("circle", "square", "owl")
TINY = AutoencoderConfig(block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=2)


def shapes() -> Icons:
    """Three shapes in three styles: a disc, a box, and a disc over a box."""
    y, x = np.mgrid[:128, :128] - 64
    shapes = (x**2 + y**2 < 50**2, np.maximum(abs(x), abs(y)) < 45, (x**2 < 30**2) & (y < 40))
    pixels = np.zeros((9, 128, 128, 4), dtype=np.uint8)
    for index in range(9):
        pixels[index][shapes[index // 3]] = (80 * (index % 3) + 60, 30, 220 - 80 * (index % 3), 255)
    return Icons(pixels, np.arange(9) // 3, np.arange(9) % 3, NAMES)


def tiny_flow() -> Flow:
    transformer = TransformerConfig(
        num_layers=1,
        num_single_layers=1,
        num_attention_heads=2,
        attention_head_dim=16,
        joint_attention_dim=48,
        axes_dims_rope=(4, 4, 4, 4),
        timestep_guidance_channels=16,
    )
    text = TextEncoderConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
    )
    return Flow(transformer, text, (1, 2, 3))


RECIPE = FlowRecipe(
    steps=40,
    batch=16,
    muon_rate=0.05,
    learning_rate=0.02,
    fresh=1,
    first_examples=64,
    shares=(0.4, 0.3, 0.3),
)


def tiny_pools(composer: Composer) -> list[Pool]:
    editor = Editor(composer)

    def plain() -> Example:
        scene, words = composer.single()
        return (), words, scene

    makers = (plain, editor.one, editor.two)
    return [
        Pool(drawing(composer, make), count, capacity=64, size=(128, 128))
        for count, make in enumerate(makers, start=1)
    ]


def tiny_tools(composer: Composer, folder: Path) -> Tools:
    """An untrained autoencoder, and a tokenizer of the composer's captions written to a folder."""
    if not (folder / "tokenizer").is_dir():
        train_tokenizer([composer.single()[1] for _ in range(50)], 300, folder / "tokenizer")
    tokenizer = Tokenizer.from_file(folder / "tokenizer" / "tokenizer.json", 32)
    return Tools(composer.rng, Autoencoder(TINY).eval(), tokenizer)
