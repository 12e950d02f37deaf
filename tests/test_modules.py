"""What holds of every model: shapes, gradients, save and load, bfloat16, and any device.

The device `meta` has no numbers but refuses to mix with the CPU, so that a table left behind on the
CPU shows without a GPU.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kleinod.compute.matmul import JoinedLinear
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.diffusion.loading import load_sampler
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.request import ImageRequest

Case = tuple[Callable[[], nn.Module], Callable[[nn.Module, torch.device, torch.dtype], Tensor]]


def _transformer() -> nn.Module:
    geometry = {"num_attention_heads": 2, "attention_head_dim": 32, "joint_attention_dim": 48}
    return Transformer(TransformerConfig(2, 2, axes_dims_rope=(8, 8, 8, 8), **geometry))


def _velocity(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    tokens, text = torch.randn(2, 12, 128), torch.randn(2, 5, 48)
    times = torch.tensor([0.75, 0.5])
    moved = [tensor.to(device, dtype) for tensor in (tokens, times, text)]
    return module(*moved, image_position_ids(3, 4), text_position_ids(5))


def _text_encoder() -> nn.Module:
    return TextEncoder(TextEncoderConfig(50, 32, 64, 4, 4, 2, 16), (1, 2, 3))


def _embeds(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    ids, mask = torch.arange(20).view(2, 10), torch.ones(2, 10, dtype=torch.long)
    return module(ids.to(device), mask.to(device))


def _autoencoder() -> nn.Module:
    return Autoencoder(AutoencoderConfig((32, 64), layers_per_block=1))


def _round_trip(module: nn.Module, device: torch.device, dtype: torch.dtype) -> Tensor:
    return module.decode(module.encode(torch.rand(1, 3, 16, 24).to(device, dtype)))


CASES = [
    pytest.param((_transformer, _velocity), (2, 12, 128), id="transformer"),
    pytest.param((_text_encoder, _embeds), (2, 10, 96), id="text encoder"),
    pytest.param((_autoencoder, _round_trip), (1, 3, 16, 24), id="autoencoder"),
]
CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.mark.parametrize(("case", "shape"), CASES)
def test_every_parameter_has_a_finite_gradient(case: Case, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = case[0]()
    result = case[1](module, CPU, torch.float32)
    assert result.shape == shape
    result.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(("case", "shape"), CASES)
@torch.inference_mode()
def test_saved_and_loaded_is_equal(case: Case, shape: tuple[int, ...], tmp_path: Path) -> None:
    module, again = case[0]().eval(), case[0]().eval()
    save_file(module.state_dict(), tmp_path / "x.safetensors")
    again.load_state_dict(load_file(tmp_path / "x.safetensors"), strict=True)
    results = []
    for each in (module, again):
        torch.manual_seed(0)
        results.append(case[1](each, CPU, torch.float32))
    assert torch.equal(*results)


@pytest.mark.parametrize(("case", "shape"), CASES)
@torch.inference_mode()
def test_bfloat16_is_near_float32(case: Case, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module, results = case[0]().eval(), []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(1)
        results.append(case[1](module.to(dtype), CPU, dtype).float())
    # bfloat16 keeps 8 bits and errors add up. Seen, of the largest value: 0.03, 0.008, 0.04
    assert (results[0] - results[1]).abs().max() <= 0.1 * results[0].abs().max()


@pytest.mark.parametrize(("case", "shape"), CASES)
@torch.inference_mode()
def test_every_table_follows_the_device(case: Case, shape: tuple[int, ...]) -> None:
    with META:
        module = case[0]().eval()
    with torch.device("cpu"):
        result = case[1](module, META, torch.float32)
    assert result.device.type == "meta"
    assert result.shape == shape


def test_the_denoising_stays_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_sampler(tiny.saved(tmp_path), device="cpu", dtype="float32")
    for name in ("transformer", "autoencoder"):
        pipeline.residents.use(name).to("meta")
    pipeline.device = META
    pipeline.embedding_cache.embeds(["a"], lambda prompts: torch.zeros(1, 512, 96))
    # the one look at a value, which meta has not
    monkeypatch.setattr(torch, "isfinite", lambda x: torch.ones(()))
    reference = tiny.picture(80, 64)
    request = ImageRequest(
        "a", (reference,), width=64, height=64, num_inference_steps=2, num_images=2
    )
    steps = list(pipeline.steps(request))
    assert [step.latents.device.type for step in steps] == ["meta", "meta"]
    assert steps[-1].latents.shape == (2, 128, 4, 4)


def test_joined_linear_equals_the_joined_matrix() -> None:
    parts = (torch.randn(4, 8), torch.randn(6, 8), torch.randn(2, 8))
    x = torch.randn(3, 5, 8)
    expected = nn.functional.linear(x, torch.cat(parts))
    assert torch.allclose(JoinedLinear(parts)(x), expected, atol=1e-6)


def test_float16_stays_finite_after_a_block() -> None:
    module = _transformer().half().eval()
    with torch.inference_mode():
        for block in module.single_blocks:
            block.linear2.weight.fill_(300)
        fused = module.single_blocks[0]
        x = torch.randn(1, 6, 64).half() * 100
        mod = tuple(torch.full((1, 1, 64), 60.0).half() for _ in range(3))
        rotation = torch.ones(6, 16), torch.zeros(6, 16)
        out = fused(x, rotation, mod)
    assert out.abs().max() == 65504
