"""The autoencoder's two halves agree with diffusers on random weights."""

import pytest
import tiny
import torch
from diffusers import AutoencoderKLFlux2

from kleinod.config import AutoencoderConfig
from kleinod.models.autoencoder import Autoencoder


@pytest.fixture(params=[None, (32, 32, 32, 32)], ids=["full", "small decoder"])
def pair(request: pytest.FixtureRequest) -> tuple[AutoencoderKLFlux2, Autoencoder]:
    torch.manual_seed(0)
    oracle = tiny.autoencoder(request.param)
    config = AutoencoderConfig((32, 32, 64, 64), decoder_block_out_channels=request.param)
    ours = Autoencoder(config).eval()
    ours.load_state_dict(oracle.state_dict(), strict=True)
    return oracle, ours


@torch.inference_mode()
def test_decoder_equals_diffusers(pair: tuple[AutoencoderKLFlux2, Autoencoder]) -> None:
    oracle, ours = pair
    latents = torch.randn(1, 32, 8, 12)
    theirs = oracle.decode(latents, return_dict=False)[0]
    mine = ours.decoder(ours.post_quant_conv(latents))
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.inference_mode()
def test_encoder_equals_diffusers(pair: tuple[AutoencoderKLFlux2, Autoencoder]) -> None:
    oracle, ours = pair
    pictures = torch.rand(2, 3, 64, 96) * 2 - 1
    mean = oracle.encode(pictures).latent_dist.mode()
    # 2x2 patches to channels, then the statistics: klein-facts C.3, written out
    b, c, h, w = mean.shape
    patches = mean.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
    patches = patches.reshape(b, 4 * c, h // 2, w // 2)
    centre, variance = oracle.bn.running_mean, oracle.bn.running_var
    theirs = (patches - centre[:, None, None]) / (variance[:, None, None] + 1e-4).sqrt()
    mine = ours.encode(pictures)
    assert mine.shape == (2, 128, 4, 6)
    assert (mine - theirs).abs().max() <= 1e-5 * theirs.abs().max()


@torch.inference_mode()
def test_decode_undoes_the_normalisation(pair: tuple[AutoencoderKLFlux2, Autoencoder]) -> None:
    oracle, ours = pair
    latents = torch.randn(1, 128, 4, 6)
    centre, variance = oracle.bn.running_mean, oracle.bn.running_var
    raw = latents * (variance[:, None, None] + 1e-4).sqrt() + centre[:, None, None]
    raw = raw.view(1, 32, 2, 2, 4, 6).permute(0, 1, 4, 2, 5, 3).reshape(1, 32, 8, 12)
    theirs = oracle.decode(raw, return_dict=False)[0]
    assert (ours.decode(latents) - theirs).abs().max() <= 1e-5 * theirs.abs().max()
