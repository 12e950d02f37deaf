"""The code for accelerators, as far as the CPU can tell: same results, few graphs, no waiting.

What needs a card is in tests/test_gpu.py.
"""

import logging
from collections.abc import Callable

import pytest
import quantised
import torch
from tiny_folder import AUTOENCODER, TEXT_ENCODER, TEXT_LAYERS, TRANSFORMER
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from kleinod.compute.matmul import JoinedLinear
from kleinod.diffusion import latents, sampling
from kleinod.diffusion.denoising import Conditions, Painting, Shape, advance
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.quantization.float8 import Float8Weight
from kleinod.quantization.scaled_float8 import (
    ScaledFloat8Linear,
    plain_product,
    rounded,
    row_scales,
    with_float8_products,
)
from kleinod.quantization.stored import StoredLinear
from kleinod.runtime.block_streaming import BlockStream, resident_count, streamed
from kleinod.runtime.compiling import blocks, compile_blocks, is_wanted
from kleinod.runtime.cuda_graphs import MAX_RECORDINGS, GraphRunner

CPU = torch.device("cpu")
Inputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


def _inputs(height: int, width: int, batch: int = 1, device: str = "cpu") -> Inputs:
    torch.manual_seed(height)
    return (
        torch.randn(batch, height * width, 128, device=device),
        torch.full((batch,), 0.7, device=device),
        torch.randn(batch, 11, TRANSFORMER.joint_attention_dim, device=device),
        latents.image_position_ids(height, width),
        latents.text_position_ids(11),
    )


@pytest.fixture
def transformer() -> Transformer:
    torch.manual_seed(0)
    return Transformer(TRANSFORMER).eval().requires_grad_(False)


# float8 products


def _of_file(rows: int = 48, columns: int = 32, *, with_input_scale: bool = True) -> Float8Weight:
    torch.manual_seed(1)
    pieces, _ = quantised.float8(torch.randn(rows, columns))
    scale = pieces["input_scale"] if with_input_scale else None
    return Float8Weight(pieces["weight"], pieces["weight_scale"], scale)


@pytest.mark.parametrize("kind", ["static", "dynamic", "two pieces"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float8_product_is_that_of_the_rounded_numbers(kind: str, dtype: torch.dtype) -> None:
    """The formula in numpy with the independent table of E4M3; bfloat16 rounds once, at the end."""
    parts = [_of_file(with_input_scale=kind != "dynamic")]
    parts += [_of_file(16)] if kind == "two pieces" else []
    old = nn.Sequential(StoredLinear(tuple(parts)))
    wrapped = nn.Module()
    wrapped.single_blocks = nn.ModuleList([old])
    assert with_float8_products(wrapped) == 1
    new = old[0]
    assert isinstance(new, ScaledFloat8Linear)
    x = (torch.randn(2, 5, 32) * 3).to(dtype)
    scale = row_scales(x) if kind == "dynamic" else torch.tensor(0.37)
    wanted = (x.float() / scale).clamp(-448, 448).numpy()
    codes = quantised.E4M3[quantised.nearest(wanted, quantised.E4M3)]
    dense = torch.cat([part.dense(torch.float32) for part in parts])
    expected = (torch.from_numpy(codes) * scale) @ dense.T
    # ties go to even codes in torch and to the lower one in the table: one code of 80 may differ
    tolerance = 0.02 * expected.abs().max() if dtype == torch.bfloat16 else 0.03
    assert new(x).dtype == dtype and new(x).shape == (2, 5, sum(p.shape[0] for p in parts))
    torch.testing.assert_close(new(x).float(), expected, atol=float(tolerance), rtol=0)
    torch.testing.assert_close(new(x), plain_product(x, new), atol=1e-5, rtol=2**-7)


def test_float8_rounding_clips_and_survives_zeros() -> None:
    x = torch.tensor([[0.0, 0.0], [1000.0, -1e9]])
    assert rounded(x, torch.ones(1)).float().tolist() == [[0, 0], [448, -448]]
    scales = row_scales(x)
    assert (scales > 0).all() and rounded(x, scales).float().isfinite().all()


def test_float8_products_replace_block_linears_only(transformer: Transformer) -> None:
    before = transformer(*_inputs(4, 4))
    # two in each attention and MLP of two streams, two in the single block
    assert with_float8_products(transformer) == 10
    assert isinstance(transformer.double_blocks[0].img_attn.qkv, ScaledFloat8Linear)
    assert isinstance(transformer.img_in, nn.Linear)
    after = transformer(*_inputs(4, 4))
    error = (after - before).norm() / before.norm()
    # seen: 0.0007; the streams go past the blocks, whose untrained outputs are small
    assert 0.0001 < error < 0.01


def test_float8_products_take_mapped_pieces_and_the_text_encoder() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(TEXT_ENCODER, TEXT_LAYERS).eval().requires_grad_(False)
    layer = encoder.model.layers[0].mlp
    layer.gate_proj = JoinedLinear(tuple(layer.gate_proj.weight.chunk(2)))
    ids = torch.arange(9)[None]
    before = encoder(ids, torch.ones_like(ids))
    assert with_float8_products(encoder) == 7 * len(TEXT_LAYERS)
    after = encoder(ids, torch.ones_like(ids))
    assert 0.001 < (after - before).norm() / before.norm() < 0.1


# compiled blocks


class _Counter:
    """A backend that counts graphs and runs them as they are."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: object) -> Callable[..., object]:
        self.graphs += 1
        return graph.forward


@pytest.mark.slow
def test_one_graph_for_all_blocks_of_a_kind_and_every_size() -> None:
    torch._dynamo.reset()
    torch.manual_seed(0)
    config = type(TRANSFORMER)(**vars(TRANSFORMER) | {"num_layers": 2, "num_single_layers": 3})
    model = Transformer(config).eval().requires_grad_(False)
    # no length is another dimension's: the compiler takes equal numbers for one symbol
    sizes = [(4, 5), (6, 5), (8, 6)]
    plain = [model(*_inputs(*size)) for size in sizes]
    counter = _Counter()
    assert compile_blocks(model, backend=counter) == 5
    for size, expected in zip(sizes, plain, strict=True):
        torch.testing.assert_close(model(*_inputs(*size)), expected, atol=1e-5, rtol=1e-5)
    assert counter.graphs == 2
    torch._dynamo.reset()


def test_compiling_is_off_on_the_cpu_unless_wished() -> None:
    assert not is_wanted(None, CPU) and is_wanted(True, CPU)
    assert is_wanted(None, torch.device("cuda")) and not is_wanted(False, torch.device("cuda"))


# recorded graphs


def _again(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
    """A recorder for the CPU: computes again from the buffers into the same output."""
    output = compute()

    def replay() -> None:
        output.copy_(compute())

    return replay, output


def test_a_recording_is_replayed_for_its_shape_with_new_values() -> None:
    recorded: list[int] = []

    def record(compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        recorded.append(1)
        return _again(compute)

    runner = GraphRunner(lambda x, y: x * 2 + y, CPU, record)
    results = [runner(torch.full((n,), float(i)), torch.ones(n)) for i in (1, 2) for n in (3, 5)]
    assert [r[0].item() for r in results] == [3, 3, 5, 5] and len(recorded) == 2
    # the caller's own: a later replay does not change it
    assert results[0].tolist() == [3, 3, 3]
    for size in range(10, 10 + MAX_RECORDINGS):
        runner(torch.ones(size), torch.ones(size))
    runner(torch.ones(3), torch.ones(3))
    assert len(recorded) == 2 + MAX_RECORDINGS + 1, "the oldest recordings go"


def test_what_cannot_be_recorded_runs_plainly_with_one_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine can record")
    runner = GraphRunner(lambda x: x + 1, CPU)
    with caplog.at_level(logging.WARNING):
        assert [runner(torch.zeros(1)).item() for _ in range(3)] == [1, 1, 1]
    (line,) = caplog.messages
    assert line == "no graph can be recorded (no CUDA card): running without"


# streamed blocks


@pytest.mark.parametrize("num_single_layers", [1, 2, 3])
@pytest.mark.parametrize("budget", [0, 150_000, 10**9])
def test_streamed_blocks_compute_the_same(num_single_layers: int, budget: int) -> None:
    torch.manual_seed(0)
    config = type(TRANSFORMER)(**vars(TRANSFORMER) | {"num_single_layers": num_single_layers})
    model = Transformer(config).eval().requires_grad_(False)
    with_float8_products(model.get_submodule("single_blocks"))
    expected = [model(*_inputs(*size)) for size in ((4, 4), (6, 4))]
    stream = BlockStream(list(blocks(model)), CPU, budget_bytes=budget)
    if budget == 10**9:
        assert stream.num_resident == 1 + num_single_layers
    for _ in range(2):
        for size, wanted in zip(((4, 4), (6, 4)), expected, strict=True):
            assert torch.equal(model(*_inputs(*size)), wanted)


def test_the_rest_of_a_streamed_component_moves_and_computes_the_same(
    transformer: Transformer,
) -> None:
    expected = transformer(*_inputs(4, 4))
    made = streamed(transformer, list(blocks(transformer)), CPU)
    assert torch.equal(made(*_inputs(4, 4)), expected)


def test_a_streamed_pass_that_was_stopped_does_not_spoil_the_next(transformer: Transformer) -> None:
    expected = transformer(*_inputs(4, 4))
    BlockStream(list(blocks(transformer)), CPU, budget_bytes=0)
    handle = transformer.single_blocks[0].norm.register_forward_pre_hook(_stop)
    hook = transformer.single_blocks[0].linear2.register_forward_pre_hook(_stop)
    with pytest.raises(KeyboardInterrupt):
        transformer(*_inputs(4, 4))
    handle.remove()
    hook.remove()
    assert torch.equal(transformer(*_inputs(4, 4)), expected)


def _stop(module: nn.Module, inputs: object) -> None:
    raise KeyboardInterrupt


def test_as_many_blocks_stay_as_the_budget_allows() -> None:
    sizes = [30, 10, 10, 10]
    assert resident_count(sizes, 60) == 4
    # the first stays, and there are two places of 10
    assert [resident_count(sizes, budget) for budget in (59, 50, 49)] == [1, 1, 0]


# traps of accelerators that the CPU forgives


class _Watch(TorchDispatchMode):
    """Notes the types of everything that is computed on the meta device, which stands for one."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple = (),
        kwargs: dict | None = None,
    ) -> object:
        result = func(*args, **kwargs or {})
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor) and value.device.type == "meta":
                self.seen.add(value.dtype)
        return result


def test_no_step_waits_for_an_accelerator_but_the_last() -> None:
    """On the meta device a look at a value raises."""
    conditions = Conditions(
        texts=(torch.empty(1, 11, TRANSFORMER.joint_attention_dim, device="meta"),),
        reference_tokens=torch.empty(1, 0, 128, device="meta"),
        sigmas=sampling.sigmas(3, 16),
        guidance_scale=1.0,
    )
    shape = Shape(4, 4, (), num_text_tokens=11, is_guided=False)
    painting = Painting(shape, conditions, torch.empty(1, 16, 128, device="meta"))
    with torch.device("meta"):
        transformer = Transformer(TRANSFORMER).eval()
    with torch.inference_mode():
        advance([painting], transformer)
        advance([painting], transformer)
        with pytest.raises(RuntimeError, match="meta"):
            advance([painting], transformer)


def test_nothing_on_an_accelerator_is_float64_or_complex_or_waited_for() -> None:
    """mps has neither; on the meta device whatever asks for a value raises."""
    with torch.device("meta"):
        transformer = Transformer(TRANSFORMER).bfloat16().eval()
        encoder = TextEncoder(TEXT_ENCODER, TEXT_LAYERS).bfloat16().eval()
        autoencoder = Autoencoder(AUTOENCODER).bfloat16().eval()
        ids = torch.zeros(1, 9, dtype=torch.long)
        picture = torch.empty(1, 3, 64, 64, dtype=torch.bfloat16)
    inputs = [x.bfloat16() if x.is_floating_point() else x for x in _inputs(4, 4, device="meta")]
    with _Watch() as watch, torch.inference_mode():
        transformer(*inputs)
        encoder(ids, torch.ones_like(ids))
        assert autoencoder.decode(autoencoder.encode(picture)).shape == picture.shape
    assert torch.bfloat16 in watch.seen
    assert watch.seen.isdisjoint({torch.float64, torch.complex64, torch.complex128})
