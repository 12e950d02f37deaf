"""A large picture is decoded in stripes: the same but for rounding, in a part of the memory."""

import pytest
import torch

from kleinod.config import AutoencoderConfig
from kleinod.models import tiled_decode
from kleinod.models.autoencoder import Autoencoder

CONFIG = AutoencoderConfig(block_out_channels=(32, 32, 64, 64), norm_num_groups=8)


@pytest.fixture(scope="module")
def autoencoder() -> Autoencoder:
    torch.manual_seed(0)
    module = Autoencoder(CONFIG).eval().requires_grad_(False)
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.normal_()
    return module


@pytest.mark.parametrize("numbers", [2**25, 2**14, 2**10])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 0.06)])
def test_stripes_give_the_whole_picture(
    autoencoder: Autoencoder,
    monkeypatch: pytest.MonkeyPatch,
    numbers: int,
    dtype: torch.dtype,
    tolerance: float,
) -> None:
    module = autoencoder.to(dtype)
    latents = torch.randn(2, 128, 5, 7, generator=torch.Generator().manual_seed(1)).to(dtype)
    with torch.inference_mode():
        plain = module.decode(latents).float()
        monkeypatch.setattr(tiled_decode, "PLAIN_PIXELS", 0)
        monkeypatch.setattr(tiled_decode, "_NUMBERS_AT_ONCE", numbers)
        made = module.decode(latents).float()
    assert made.shape == plain.shape == (2, 3, 80, 112)
    assert (made - plain).abs().max() < tolerance * plain.std()


def test_gradients_are_those_of_the_plain_decoder(
    autoencoder: Autoencoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiled_decode, "PLAIN_PIXELS", 0)
    latents = torch.randn(1, 128, 4, 4, requires_grad=True)
    autoencoder.float().decode(latents).sum().backward()
    assert torch.isfinite(latents.grad).all() and latents.grad.abs().max() > 0
