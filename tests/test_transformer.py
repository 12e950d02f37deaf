"""The transformer agrees with diffusers on random weights, through the key table."""

import pytest
import torch
from diffusers import Flux2Transformer2DModel

from kleinod.config import TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.models.transformer import Transformer, apply_rope, rope
from kleinod.weights.key_maps import TRANSFORMER, to_bfl


def test_velocity_equals_diffusers() -> None:
    torch.manual_seed(0)
    geometry = {
        "num_layers": 2,
        "num_single_layers": 2,
        "num_attention_heads": 2,
        "attention_head_dim": 32,
        "joint_attention_dim": 48,
        "axes_dims_rope": (8, 8, 8, 8),
    }
    oracle = Flux2Transformer2DModel(in_channels=128, guidance_embeds=False, **geometry).eval()
    ours = Transformer(TransformerConfig(**geometry))
    parts = to_bfl(oracle.state_dict(), TRANSFORMER)
    ours.load_state_dict({n: torch.cat(p) for n, p in parts.items()}, strict=True)
    x, text, times = torch.randn(2, 12, 128), torch.randn(2, 5, 48), torch.tensor([0.9, 0.4])
    image_ids, text_ids = image_position_ids(3, 4, time=10), text_position_ids(5)
    with torch.inference_mode():
        mine = ours(x, times, text, image_ids, text_ids)
        theirs = oracle(x, text, times, image_ids, text_ids, None, return_dict=False)[0]
    # float32 rounding only, the order of sums differs
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rotation_without_gradients_is_the_same_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 3, 32, dtype=dtype)
    table = rope(image_position_ids(3, 4, time=10), (8, 8, 8, 8), 2000.0)
    expected = apply_rope(x, *table)
    with torch.inference_mode():
        assert torch.equal(apply_rope(x, *table), expected)
