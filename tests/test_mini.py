"""The built-in model: it loads, it paints what it is asked, and diffusers paints the same."""

import numpy as np
import pytest
import torch
from diffusers import Flux2KleinPipeline
from PIL import Image

from kleinod.catalog import find
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler


@pytest.fixture(scope="module")
def mini() -> Sampler:
    return load_sampler("mini", device="cpu", dtype=torch.float32)


def _colour(image: Image.Image) -> np.ndarray:
    """Mean RGB of the upper left corner, where the background shows."""
    return np.asarray(image, dtype=float)[:8, :8].mean((0, 1))


@pytest.mark.parametrize(
    ("name", "rgb"), [("red", (214, 48, 49)), ("blue", (50, 100, 215)), ("black", (24, 24, 24))]
)
def test_background_is_as_asked(mini: Sampler, name: str, rgb: tuple[int, int, int]) -> None:
    made = mini.generate(f"a cat on a {name} background", seed=1).images[0].image
    # far from the other colours; a trained model is within a few levels of its own
    assert np.abs(_colour(made) - rgb).max() < 40


def test_reference_keeps_its_background(mini: Sampler) -> None:
    first = mini.generate("a red apple on a blue background", seed=2).images[0].image
    edited = mini.generate("mirror it", reference_images=(first,), seed=3).images[0].image
    assert np.abs(_colour(edited) - _colour(first)).max() < 40


def test_picture_equals_diffusers_on_trained_weights(mini: Sampler) -> None:
    oracle = Flux2KleinPipeline.from_pretrained(find("mini"), torch_dtype=torch.float32)
    oracle.set_progress_bar_config(disable=True)
    first = mini.generate("a fox, 3D style", seed=5).images[0].image
    for references, prompt in (([], "an owl on a purple background"), ([first], "make it smaller")):
        expected = oracle(
            prompt=prompt,
            image=references or None,
            width=128,
            height=128,
            num_inference_steps=4,
            guidance_scale=1.0,
            max_sequence_length=mini.info.max_text_tokens,
            text_encoder_out_layers=mini.info.text_layers,
            generator=torch.Generator().manual_seed(9),
        ).images[0]
        mine = mini.generate(prompt, reference_images=tuple(references), seed=9).images[0].image
        difference = np.asarray(mine, dtype=int) - np.asarray(expected, dtype=int)
        # sums in another order, and one rounding; seen: 1
        assert np.abs(difference).max() <= 1
