"""A piece at a time, by PyTorch's products, everything has the bits of the plain formulas."""

import pytest
import torch

from kleinod.compute import lazy_linear
from kleinod.config import TextEncoderConfig, TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.kernels import native
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer

DTYPES = (torch.float32, torch.bfloat16)
CONFIG = TransformerConfig(
    num_layers=1,
    num_single_layers=2,
    num_attention_heads=2,
    attention_head_dim=32,
    joint_attention_dim=96,
    axes_dims_rope=(8, 8, 8, 8),
)


@pytest.fixture(params=[2**9, 2**18])
def numbers_at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(lazy_linear, "_NUMBERS_AT_ONCE", request.param)
    return request.param


@pytest.fixture(autouse=True)
def _by_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    """What our own products end in has a few other last bits (test_native_results.py)."""
    monkeypatch.setattr(native, "kind", lambda: None)


@pytest.mark.usefixtures("numbers_at_once")
@pytest.mark.parametrize("dtype", DTYPES)
def test_transformer_has_the_same_bits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = Transformer(CONFIG).to(dtype)
    tokens, text = torch.randn(2, 24, 128).to(dtype), torch.randn(2, 7, 96).to(dtype)
    times = torch.tensor([0.3, 0.8]).to(dtype)
    given = tokens, times, text, image_position_ids(4, 6), text_position_ids(7)
    before = [tensor.clone() for tensor in given]
    plain = module(*given)
    with torch.inference_mode():
        made = module(*given)
    assert torch.equal(made, plain)
    # nothing that was given is written to
    assert all(torch.equal(a, b) for a, b in zip(given, before, strict=True))


@pytest.mark.usefixtures("numbers_at_once")
@pytest.mark.parametrize("longest", [150, 14])
@pytest.mark.parametrize("dtype", DTYPES)
def test_text_encoder_has_the_same_bits(dtype: torch.dtype, longest: int) -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(
        vocab_size=50,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
    )
    module = TextEncoder(config, (1, 2, 3)).to(dtype)
    ids = torch.randint(50, (2, 150))
    mask = torch.arange(150).expand(2, 150) < torch.tensor([[longest], [9]])
    plain = module(ids, mask)
    with torch.inference_mode():
        assert torch.equal(module(ids, mask), plain)
