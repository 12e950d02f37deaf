"""Products by our own code: right, of the same bits whatever is computed with them, and told."""

import logging
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from system_programs import require_compiled_kernels
from torch import Tensor

from kleinod.compute import attention, lazy_linear, matmul
from kleinod.config import TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.diffusion.loading import load_sampler
from kleinod.kernels import native
from kleinod.models.transformer import Transformer
from kleinod.quantization import int8
from kleinod.quantization.stored import PlainWeight, StoredLinear

with_code = pytest.mark.usefixtures("kind")
# rows, inner, columns: whole tiles and not, more than are computed at once, few and many terms
SHAPES = [(1, 32, 32), (33, 96, 64), (16, 4096, 160), (200, 6272, 416), (770, 256, 1024)]


@pytest.fixture(params=[native.AMX, native.AVX512])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each that this processor knows, not the fastest alone."""
    require_compiled_kernels()
    if not native.is_right(request.param):
        pytest.skip(f"this processor has no {request.param}")
    monkeypatch.setattr(native, "kind", lambda: request.param)
    return str(request.param)


def _matrix(rows: int, columns: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).bfloat16()


def _int8_weight(codes: Tensor, scale: Tensor) -> native.Int8Weight:
    return native.Int8Weight(native.int8_tiles(codes), scale)


@with_code
@pytest.mark.parametrize("shape", SHAPES)
def test_a_product_is_rounded_once(shape: tuple[int, int, int]) -> None:
    rows, inner, columns = shape
    x, weight = _matrix(rows, inner), _matrix(columns, inner, seed=1)
    made = native.product(native.tiled(x), weight)
    exact = x.double() @ weight.double().T
    # half of the last of eight bits, and what a float32 sum of so many terms loses (1e-4 seen)
    assert ((made.double() - exact).abs() <= exact.abs() * 2**-8 + inner * 1e-7).all()


@with_code
def test_some_rows_and_columns_have_the_bits_of_all() -> None:
    x, weight = _matrix(200, 6272), _matrix(416, 6272, seed=1)
    whole = native.product(native.tiled(x), weight)
    wide = torch.zeros(150, 500, dtype=torch.bfloat16)
    native.product(native.tiled(x[50:]), weight[96:320], wide[:, 100:324])
    assert torch.equal(wide[:, 100:324], whole[50:, 96:320])
    assert not wide[:, :100].any() and not wide[:, 324:].any()


@with_code
def test_threads_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = _matrix(100, 6272), _matrix(416, 6272, seed=1)
    made = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda count=threads: count)
        tiles = native.quantized(x)
        codes = _int8_weight(int8.quantized(weight).codes, torch.ones(416))
        made.append((native.product(native.tiled(x), weight), native.product(tiles, codes)))
    for other in made[1:]:
        assert all(torch.equal(a, b) for a, b in zip(made[0], other, strict=True))


@with_code
@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape[1] % 64 == 0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_int8_sums_are_exact(shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    rows, inner, columns = shape
    x, weight = _matrix(rows, inner).to(dtype), _matrix(columns, inner, seed=1)
    x[0] = 0
    known, codes = int8.quantized(x), int8.quantized(weight)
    tiles, scale = native.quantized(x), codes.scale[:, 0].contiguous()
    assert torch.equal(tiles.scale, known.scale[:, 0])
    made = native.product(tiles, _int8_weight(codes.codes, scale))
    sums = (known.codes.double() @ codes.codes.double().T).float()
    assert torch.equal(made, (sums * scale * known.scale).to(dtype))


@with_code
def test_what_is_no_number_stays_so() -> None:
    x = torch.ones(40, 64)
    x[3, 5], x[7, 9] = float("nan"), float("inf")
    weight = _int8_weight(torch.ones(32, 64, dtype=torch.int8), torch.ones(32))
    made = native.product(native.quantized(x), weight)
    assert made.isfinite().all(1).logical_not().nonzero().flatten().tolist() == [3, 7]


@with_code
@pytest.mark.parametrize(
    "shape", [(1, 5, 2, 32), (2, 33, 3, 64), (1, 600, 2, 128), (1, 1100, 1, 96)]
)
@pytest.mark.parametrize("size", [0.5, 6.0])
def test_attention_is_as_near_as_pytorchs(shape: tuple[int, ...], size: float) -> None:
    generator = torch.Generator().manual_seed(shape[1])
    q, k, v = (torch.randn(shape, generator=generator).bfloat16() for _ in range(3))
    q = q * size
    assert native.takes_heads(q, k, v)

    def plain(*heads: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in heads)).transpose(1, 2)

    exact = plain(q.double(), k.double(), v.double())
    errors = [
        (y - exact).norm() / exact.norm() for y in (native.attention(q, k, v), plain(q, k, v))
    ]
    # both round the weights of the values to bfloat16: 0.0017 to 0.0023 seen
    assert abs(errors[0] - errors[1]) < 0.1 * errors[1]


@with_code
@torch.no_grad()
@pytest.mark.parametrize("shape", [(1, 768, 3, 128), (2, 100, 2, 64), (1, 1100, 2, 96)])
def test_attention_has_pytorchs_bits_but_for_the_order_of_sums(shape: tuple[int, ...]) -> None:
    q, k, v = (
        _matrix(shape[0] * shape[1], shape[2] * shape[3], seed).view(shape) for seed in range(3)
    )
    made = attention.attention(q, k, v)
    assert torch.equal(made, native.attention(q, k, v).flatten(2))
    heads = (x.transpose(1, 2) for x in (q, k, v))
    plain = F.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(2)
    # 1 of 1,000 seen, without AMX; with an exponential that is more exact than PyTorch's, 160
    assert (made != plain).float().mean() < 0.01


@with_code
def test_attention_of_parts_of_a_stream() -> None:
    wide = _matrix(2 * 40, 3 * 4 * 64).view(2, 40, 3, 4, 64)
    q, k, v = wide.unbind(2)
    made = native.attention(q, k, v)
    assert torch.equal(made, native.attention(q.contiguous(), k.contiguous(), v.contiguous()))
    assert torch.equal(made[1:, :, 2:], native.attention(*(x[1:, :, 2:] for x in (q, k, v))))
    assert not native.takes_heads(q.float(), k, v) and not native.takes_heads(q[:, :3], k, v)


@with_code
def test_attention_keeps_what_is_no_number() -> None:
    q, k, v = (_matrix(40, 64, seed=seed).view(1, 40, 2, 32) for seed in range(3))
    q[0, 3, 1, 0] = float("nan")
    made = native.attention(q, k, v)
    assert made[0, 3, 1].isnan().all() and made.isnan().sum() == 32


@with_code
def test_onednn_multiplies_as_before() -> None:
    x, weight = _matrix(70, 96), _matrix(64, 96, seed=1)
    before = F.linear(x, weight)
    for _ in range(3):
        native.product(native.tiled(x), weight)
        assert torch.equal(F.linear(x, weight), before)


def _transformer() -> tuple[Transformer, tuple[Tensor, ...]]:
    torch.manual_seed(0)
    config = TransformerConfig(
        num_layers=1, num_single_layers=1, num_attention_heads=2, attention_head_dim=32,
        joint_attention_dim=96, axes_dims_rope=(8, 8, 8, 8),
    )  # fmt: skip
    tokens = torch.randn(1, 64, 128).bfloat16(), torch.tensor([0.5]).bfloat16()
    ids = image_position_ids(8, 8), text_position_ids(20)
    return Transformer(config).bfloat16().eval(), (*tokens, torch.randn(1, 20, 96).bfloat16(), *ids)


@with_code
@torch.no_grad()
def test_a_transformer_is_as_near_to_float32_as_with_pytorch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, inputs = _transformer()
    made = {True: model(*inputs)}
    calls: list[int] = []
    monkeypatch.setattr(native, "_multiply", lambda *_, **fields: calls.append(1))
    monkeypatch.setattr(native, "attention", lambda *_: calls.append(1))
    monkeypatch.setattr(native, "kind", lambda: None)
    made[False] = model(*inputs)
    assert not calls
    exact = model.float()(*(x.float() if x.is_floating_point() else x for x in inputs))
    errors = {on: (y - exact).norm() / exact.norm() for on, y in made.items()}
    # both 0.004: what bfloat16 costs, whoever multiplies
    assert abs(errors[True] - errors[False]) < 0.1 * errors[False] < 1e-3


@with_code
def test_gradients_and_compiled_graphs_are_pytorchs() -> None:
    linear = torch.nn.Linear(64, 32, bias=False).bfloat16()
    x = _matrix(64, 64)
    with torch.no_grad():
        assert matmul.tiled(linear, x) is not None
        assert matmul.tiled(linear, x[:2]) is None
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert not matmul.is_tiled(x)
    assert matmul.tiled(linear, x) is None
    compiled = torch.compile(
        lambda x: lazy_linear.product(linear, x), backend="eager", fullgraph=True
    )
    with torch.no_grad():
        assert torch.equal(compiled(x), linear(x))


@with_code
@torch.no_grad()
def test_a_weight_in_pieces_or_stored_has_the_bits_of_the_whole() -> None:
    weight, x = _matrix(640, 128), _matrix(50, 128, seed=1).view(2, 25, 128)
    whole = lazy_linear.product(_linear(weight), x)
    assert torch.equal(lazy_linear.product(matmul.JoinedLinear(weight.split(320)), x), whole)
    assert torch.equal(StoredLinear((PlainWeight(weight),))(x), whole)
    columns = lazy_linear.columns(_linear(weight), x)
    assert not columns.is_whole
    for start, stop in ((0, 640), (1, 2), (31, 65), (300, 350)):
        assert torch.equal(columns(start, stop), whole[..., start:stop])


def _linear(weight: Tensor) -> torch.nn.Linear:
    linear = torch.nn.Linear(*reversed(weight.shape), bias=False)
    linear.weight = torch.nn.Parameter(weight, requires_grad=False)
    return linear


def test_only_whole_tiles_are_taken() -> None:
    assert native.takes(64, 96, 2) and native.takes(32, 64, 1)
    assert not (native.takes(40, 64, 2) or native.takes(64, 48, 2) or native.takes(64, 96, 1))


def test_it_can_be_switched_off() -> None:
    code = "from kleinod.kernels import native; print(native.is_usable())"
    environment = {"KLEINOD_KERNELS": "off", "PATH": "/usr/bin:/bin"}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout == "False\n"


@pytest.mark.parametrize("choice", ["", "amx", "avx512", "off", "fast"])
def test_it_is_chosen(
    choice: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The fastest that is right, or the one that is named; nothing else is even tried."""
    tried: list[str] = []
    monkeypatch.setattr(native, "_known", lambda: [native.AMX, native.AVX512])
    monkeypatch.setattr(native, "is_right", lambda kind: tried.append(kind) or kind != native.AMX)
    monkeypatch.setenv("KLEINOD_KERNELS", choice)
    found = native.kind.__wrapped__()
    expected = {"": ([native.AMX, native.AVX512], native.AVX512), "amx": ([native.AMX], None)}
    expected["avx512"] = ([native.AVX512], native.AVX512)
    expected["fast"], expected["off"] = expected[""], ([], None)
    assert (tried, found) == expected[choice]
    assert ("'fast' is none of off, amx, avx512" in caplog.text) == (choice == "fast")


@pytest.mark.parametrize(
    ("choice", "library", "reason"),
    [
        ("off", object(), "KLEINOD_KERNELS is off"),
        ("", None, "kleinod was built without a C compiler"),
        ("", object(), "the system refuses amx"),
    ],
)
def test_a_processor_that_has_it_in_vain_is_told(
    choice: str,
    library: object,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(native, "kind", lambda: None)
    monkeypatch.setattr(native, "_library", lambda: library)
    monkeypatch.setenv("KLEINOD_KERNELS", choice)
    with caplog.at_level(logging.INFO, logger="kleinod"):
        load_sampler("mini", device="cpu")
        assert not caplog.messages
        load_sampler("mini", device="cpu", dtype="bfloat16")
    # a processor without bfloat16 GEMMs is told of that, too
    slower = [message for message in caplog.messages if "are slower" in message]
    assert slower == [f"products are slower than they could be: {reason}"]


def test_a_receipt_names_who_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (native.AMX, native.AVX512, None):
        monkeypatch.setattr(native, "kind", lambda kind=kind: kind)
        device = torch.device("cpu")
        told = matmul.told(torch.bfloat16, device)
        assert told == kind or not matmul.has_bfloat16()
        assert matmul.told(torch.float32, device) is None
