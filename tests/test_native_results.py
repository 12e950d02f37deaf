"""What products by our own code end in: as near as the formulas over written columns."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from system_programs import require_compiled_kernels
from torch import Tensor

from kleinod.compute import lazy_linear
from kleinod.compute.lazy_linear import Columns
from kleinod.compute.matmul import JoinedLinear, TiledColumns
from kleinod.config import TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.kernels import native
from kleinod.models.transformer import Transformer
from kleinod.quantization.int8 import Int8Linear

WIDTH, INNER = 256, 320


@pytest.fixture(autouse=True, params=[native.AMX, native.AVX512])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that this processor knows, not the fastest alone."""
    require_compiled_kernels()
    if not native.is_right(request.param):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(native, "kind", lambda: request.param)


@pytest.fixture(params=["int8", "bfloat16", "joined"])
def weight(request: pytest.FixtureRequest) -> str:
    """What the columns are made of; joined: of several matrices."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _without_gradients() -> Iterator[None]:
    torch.manual_seed(0)
    with torch.no_grad():
        yield


def _columns(batch: int, length: int, inner: int, weight: str = "int8") -> tuple[Columns, Columns]:
    """The same columns twice: as they are used up, and as they are written."""
    matrix = torch.randn(3 * WIDTH + 2 * INNER, inner).bfloat16() * inner**-0.5
    linear: torch.nn.Module = Int8Linear((matrix,))
    if weight != "int8":
        rows = [WIDTH, 2 * WIDTH, 2 * INNER] if weight == "joined" else [len(matrix)]
        linear = JoinedLinear(matrix.split(rows))
    made = lazy_linear.columns(linear, torch.randn(batch, length, inner).bfloat16())
    assert isinstance(made.used_up, TiledColumns)
    return made, replace(made, used_up=None)


def _agree(formula: Callable[[Columns], Tensor], parts: tuple[Columns, Columns]) -> None:
    """Nearly all numbers to the same bit; a head's mean square is summed in another order."""
    made, plain = map(formula, parts)
    assert made.shape == plain.shape
    assert (made.float() - plain.float()).norm() < 1e-3 * plain.float().norm()
    assert (made != plain).float().mean() < 0.01


def _turning(length: int, head: int) -> tuple[Tensor, Tensor]:
    angles = torch.rand(length, head // 2) * 6
    scale = (1 + 0.1 * torch.randn(head)).bfloat16()
    return scale, torch.polar(torch.ones_like(angles), angles)


# one picture and two; rows that fill tiles and not; inner sums that are kept in one piece and not
SIZES = [(1, 50, 256), (2, 37, 256), (1, 33, 4096)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("head", [32, 64, 128])
def test_heads_are_turned(size: tuple[int, int, int], head: int, weight: str) -> None:
    scale, turns = _turning(size[1], head)
    _agree(
        lambda y: lazy_linear.turned(y.behind(WIDTH), WIDTH, scale, eps=1e-6, turns=turns),
        _columns(*size, weight),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("width", [0, 64])
def test_swiglu(size: tuple[int, int, int], width: int, weight: str) -> None:
    beside = torch.randn(*size[:2], width).bfloat16() if width else None
    _agree(
        lambda y: lazy_linear.swiglu(
            y.behind(3 * WIDTH), y.behind(3 * WIDTH + INNER), INNER, beside
        ),
        _columns(*size, weight),
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("is_gated", [True, False])
def test_gated_sum(size: tuple[int, int, int], is_gated: bool, weight: str) -> None:
    parts = _columns(*size, weight)
    count = 3 * WIDTH + 2 * INNER
    wide = torch.randn(size[0], size[1] + 5, count).bfloat16()
    # as the transformer has them: a part of a longer stream, and a chunk of a modulation
    gate = torch.randn(size[0], 1, 3 * count).bfloat16().chunk(3, dim=-1)[1]
    _agree(lambda y: lazy_linear.gated_sum(wide[:, 5:], gate if is_gated else None, y), parts)


def test_large_and_missing_numbers() -> None:
    """SiLU of what overflows its power, and of what is no number, is as PyTorch has it."""
    gates = torch.tensor([0.0, 1e4, -1e4, 3e38, -3e38, 90.0, -90.0, float("nan")])
    tokens = torch.zeros(1, len(gates), 64)
    tokens[0, :, 0] = 127
    codes = torch.zeros(64, 64, dtype=torch.int8)
    codes[:, 0] = 1
    x = tokens.bfloat16()
    made = torch.empty(len(gates), 32, dtype=torch.bfloat16)
    tiles = native.quantized(x[0])
    assert tiles.scale is not None
    tiles.scale[:] = gates / 127
    weight = native.Int8Weight(native.int8_tiles(codes), torch.ones(64))
    plain = native.product(tiles, weight)[:, :32]
    native.swiglu(tiles, weight[0:32], weight[32:64], made)
    expected = torch.nn.functional.silu(plain) * plain
    assert torch.allclose(made, expected, rtol=2**-7, atol=0, equal_nan=True)


def test_what_fills_no_panels_is_written_and_read() -> None:
    made, _ = _columns(1, 40, 256)
    used = made.used_up
    assert used is not None
    scale, turns = _turning(40, 16)
    assert used.turned((0, WIDTH), scale, turns=turns, eps=1e-6) is None
    assert not used.swiglu(16, used, 0, torch.empty(1, 40, 32, dtype=torch.bfloat16))
    other, _ = _columns(1, 40, 256)
    assert other.used_up is not None
    assert not used.swiglu(0, other.used_up, 0, torch.empty(1, 40, 32, dtype=torch.bfloat16))
    assert used.gated_sum(torch.zeros(1, 40, 3 * WIDTH + 2 * INNER), None) is None


def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = _columns(1, 100, 4096)
    scale, turns = _turning(100, 128)
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        heads = lazy_linear.turned(made, WIDTH, scale, eps=1e-6, turns=turns)
        inner = lazy_linear.swiglu(
            made.behind(3 * WIDTH), made.behind(3 * WIDTH + INNER), INNER, None
        )
        results.append((heads, inner))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("batch", [1, 2])
def test_rows_are_modulated_before_they_are_quantised(batch: int) -> None:
    linear = Int8Linear((torch.randn(96, 256).bfloat16() / 16,))
    wide = torch.randn(batch, 45, 256).bfloat16() * 3 + 1
    shift, scale = torch.randn(batch, 1, 768).bfloat16().chunk(3, dim=-1)[1:]
    # as the transformer has it: a part of a longer stream
    x = wide[:, 5:]
    made = lazy_linear.modulated_columns(linear, x, shift, scale, 1e-6)
    plain = lazy_linear.columns(linear, lazy_linear.modulated(x, shift, scale, 1e-6))
    assert isinstance(made.used_up, TiledColumns) and made.used_up.tiles is not None
    results = made(0, 96), plain(0, 96)
    assert (results[0].float() - results[1].float()).norm() < 1e-3 * results[1].float().norm()


@pytest.mark.parametrize("is_floating", [True, False])
def test_a_transformer_in_int8_is_as_near_as_without_these(
    is_floating: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where some layers are in bfloat16 and some in int8, and in float32."""
    config = TransformerConfig(
        num_layers=2, num_single_layers=2, num_attention_heads=2, attention_head_dim=32,
        joint_attention_dim=96, axes_dims_rope=(8, 8, 8, 8),
    )  # fmt: skip
    model = Transformer(config).eval()
    model = model if is_floating else model.bfloat16()
    dtype = torch.float32 if is_floating else torch.bfloat16
    inputs = torch.randn(2, 64, 128).to(dtype), torch.tensor([0.5, 0.3]).to(dtype)
    ids = image_position_ids(8, 8), text_position_ids(20)
    given = (*inputs, torch.randn(2, 20, 96).to(dtype), *ids)
    exact = model(*given)
    for block in (*model.double_blocks[:1], *model.single_blocks):
        for name, linear in block.named_modules():
            if isinstance(linear, torch.nn.Linear):
                parent, _, child = name.rpartition(".")
                setattr(block.get_submodule(parent), child, Int8Linear((linear.weight,)))
    calls: list[str] = []
    for name in ("modulated", "turned", "swiglu", "gated_sum"):
        own = getattr(native, name)
        monkeypatch.setattr(
            native, name, lambda *a, n=name, f=own, **k: (calls.append(n), f(*a, **k))[1]
        )
    made = model(*given)
    # two double blocks of two streams, one of them in int8, and two single ones, both in int8
    counts = {"modulated": 6, "turned": 12, "swiglu": 6, "gated_sum": 10}
    assert Counter(calls) == ({} if is_floating else counts)
    monkeypatch.setattr(Int8Linear, "modulated_columns", lambda *_: None)
    monkeypatch.setattr(TiledColumns, "_rows", lambda *_: None)
    plain = model(*given)
    errors = [((y - exact).float().norm() / exact.float().norm()).item() for y in (made, plain)]
    assert errors[1] > 1e-5 and abs(errors[0] - errors[1]) < 0.1 * errors[1]
