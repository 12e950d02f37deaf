"""What needs an NVIDIA card: `pytest -m gpu` on a machine that has one. None of it has run yet.

Each holds a fast way against the plain one on the same card, within what its rounding explains.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import kleinod
from kleinod.compute import attention_cuda
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.models.transformer import Transformer
from kleinod.quantization.scaled_float8 import can_multiply, plain_product
from kleinod.runtime.block_streaming import BlockStream
from kleinod.runtime.cuda_graphs import GraphRunner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA card"),
]
CUDA = torch.device("cuda")
REQUEST = {"width": 128, "height": 128, "seed": 7}


def _picture(pipeline: Sampler) -> np.ndarray:
    result = pipeline.generate("a fox on a blue background", **REQUEST)
    return np.asarray(result.images[0].image).astype(int)


def _error(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a - b).mean())


@pytest.fixture(scope="module")
def plain() -> np.ndarray:
    return _picture(load_sampler("mini", device="cuda", compile=False))


def test_a_card_paints_the_cpus_picture(plain: np.ndarray) -> None:
    on_cpu = _picture(load_sampler("mini", device="cpu", dtype="bfloat16"))
    # other kernels, other roundings of bfloat16
    assert _error(plain, on_cpu) < 3


def test_compiled_blocks_and_graphs_paint_the_same_picture(plain: np.ndarray) -> None:
    pipeline = load_sampler("mini", device="cuda", compile=True, offload="none")
    # the second is replayed
    for _ in range(2):
        assert _error(plain, _picture(pipeline)) < 3


def test_streamed_blocks_paint_the_same_picture(plain: np.ndarray) -> None:
    pipeline = load_sampler("mini", device="cuda", compile=False, offload="block")
    assert _error(plain, _picture(pipeline)) == 0


def test_blocks_that_visit_the_card_compute_the_same() -> None:
    pipeline = load_sampler("mini", device="cpu", dtype="float32")
    model: Transformer = pipeline.residents.use("transformer")
    layers = [block.img_mlp for block in model.double_blocks]
    x = torch.randn(1, 64, model.config.hidden_dim, device=CUDA)
    expected = [layer.to(CUDA)(x).cpu() for layer in layers]
    stream = BlockStream([layer.cpu() for layer in layers], CUDA, budget_bytes=0)
    assert stream.num_resident == 0
    for _ in range(3):
        for layer, wanted in zip(layers, expected, strict=True):
            assert torch.equal(layer(x).cpu(), wanted)


@pytest.mark.skipif(
    torch.cuda.is_available() and not can_multiply(CUDA), reason="needs Ada or a later card"
)
def test_float8_products_are_those_of_the_rounded_numbers(plain: np.ndarray) -> None:
    pipeline = load_sampler("mini", device="cuda", compile=False, quantize="fp8")
    linear = pipeline.residents.use("transformer").single_blocks[0].linear1
    x = torch.randn(1, 33, linear.codes.shape[1], dtype=torch.bfloat16, device=CUDA)
    expected = plain_product(x, linear).float()
    assert (linear(x).float() - expected).abs().max() < 0.02 * expected.abs().max()
    assert 0 < _error(plain, _picture(pipeline)) < 12


@pytest.mark.parametrize(
    "name", attention_cuda._candidates(CUDA) if torch.cuda.is_available() else ()
)
def test_every_attention_that_runs_is_near_float32(name: str) -> None:
    if not attention_cuda._runs(name, CUDA, torch.bfloat16, 128):
        pytest.skip(f"{name} is not on this machine")
    q, k, v = (torch.randn(1, 300, 4, 128, dtype=torch.bfloat16, device=CUDA) for _ in range(3))
    with sdpa_kernel(SDPBackend.MATH):
        exact = F.scaled_dot_product_attention(*(x.transpose(1, 2).float() for x in (q, k, v)))
    out = attention_cuda._KERNELS[name](q, k, v).transpose(1, 2)
    assert (out.float() - exact).abs().max() < 0.02


def test_a_recorded_function_is_replayed_with_new_values() -> None:
    runner = GraphRunner(lambda x, y: (x * 2 + y).relu(), CUDA)
    for value in (1.0, 2.0, -3.0):
        x = torch.full((5,), value)
        torch.testing.assert_close(runner(x, torch.ones(5)).cpu(), (x * 2 + 1).relu())
    assert runner._recordings and not runner._is_plain


def test_no_step_waits_for_the_card() -> None:
    """torch raises at what synchronises, and the last step alone looks at the latents."""
    pipeline = load_sampler("mini", device="cuda", compile=False)
    request = pipeline.resolve(kleinod.ImageRequest("a fox", **REQUEST))
    texts, references = pipeline.encode_prompts(request.texts), pipeline.encode_references(())
    paintings = [pipeline.start(request, 0, texts, references)]
    pipeline.advance(paintings)
    torch.cuda.set_sync_debug_mode("error")
    try:
        pipeline.advance(paintings)
    finally:
        torch.cuda.set_sync_debug_mode("default")
