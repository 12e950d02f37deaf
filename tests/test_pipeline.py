"""The autoencoder and the sigmas against diffusers and the published table."""

import torch
from diffusers import AutoencoderKLFlux2

from kleinod.config import AutoencoderConfig
from kleinod.models.autoencoder import Autoencoder
from kleinod.sampling import sigmas


def test_sigmas_equal_the_table() -> None:
    expected = torch.tensor([1, 0.96738404, 0.90814394, 0.76719993, 0])
    assert torch.allclose(sigmas(4, 4096), expected, atol=1e-6, rtol=0)


def test_decoder_equals_diffusers() -> None:
    torch.manual_seed(0)
    geometry = {"block_out_channels": (16, 16, 32, 32), "norm_num_groups": 8}
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4}
    blocks["up_block_types"] = ("UpDecoderBlock2D",) * 4
    oracle = AutoencoderKLFlux2(**geometry, **blocks).eval()
    ours = Autoencoder(AutoencoderConfig(**geometry)).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    latents = torch.randn(1, 32, 8, 12)
    with torch.inference_mode():
        theirs = oracle.decode(latents, return_dict=False)[0]
        mine = ours.decoder(ours.post_quant_conv(latents))
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()
