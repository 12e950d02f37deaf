"""Each number format against its formula: exact in float32, rounded once in the other dtypes."""

import gguf
import numpy as np
import pytest
import quantised
import torch
from torch import Tensor, nn

from kleinod.quantization.float8 import BlockFloat8Weight, Float8Weight, float8_values, widen
from kleinod.quantization.gguf_weight import GGUFWeight
from kleinod.quantization.nvfloat4 import NVFloat4Scales, NVFloat4Weight
from kleinod.quantization.stored import (
    PlainWeight,
    StoredEmbedding,
    StoredLinear,
    StoredWeight,
    SwappedHalves,
)
from kleinod.weights.gguf_files import FORMATS

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def _float8(weight: Tensor) -> tuple[StoredWeight, Tensor]:
    pieces, dense = quantised.float8(weight)
    return Float8Weight(pieces["weight"], pieces["weight_scale"], pieces["input_scale"]), dense


def _float8_e5m2(weight: Tensor) -> tuple[StoredWeight, Tensor]:
    pieces, dense = quantised.float8(weight, torch.float8_e5m2)
    return Float8Weight(pieces["weight"], pieces["weight_scale"]), dense


def _row_float8(weight: Tensor) -> tuple[StoredWeight, Tensor]:
    pieces, dense = quantised.row_float8(weight)
    return Float8Weight(pieces["weight"], pieces["weight_scale"]), dense


def _block_float8(weight: Tensor) -> tuple[StoredWeight, Tensor]:
    pieces, dense = quantised.block_float8(weight)
    return BlockFloat8Weight(pieces["weight"], pieces["weight_scale_inv"]), dense


def _nvfp4(weight: Tensor) -> tuple[StoredWeight, Tensor]:
    pieces, dense = quantised.nvfp4(weight)
    scales = NVFloat4Scales(pieces["weight_scale"], pieces["weight_scale_2"])
    return NVFloat4Weight(pieces["weight"], scales), dense


def _gguf(name: str):  # noqa: ANN202
    def stored(weight: Tensor) -> tuple[StoredWeight, Tensor]:
        raw, dense = quantised.gguf_blocks(weight, name)
        return GGUFWeight(torch.from_numpy(raw), FORMATS[name]), dense

    stored.__name__ = name
    return stored


CASES = [_float8, _float8_e5m2, _row_float8, _block_float8, _nvfp4, *map(_gguf, sorted(FORMATS))]
# NVFP4's three factors may be multiplied in another order; the others are equal bit for bit
TOLERANCE = {_nvfp4: 3e-7}


def _matrix(rows: int = 304, columns: int = 512) -> Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(1)) * 0.05


@pytest.mark.parametrize("store", CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("dtype", DTYPES)
def test_dense_is_the_formula_rounded_once(store, dtype: torch.dtype) -> None:  # noqa: ANN001
    weight, dense = store(_matrix())
    mine = weight.dense(dtype)
    assert mine.dtype == dtype and mine.shape == weight.shape == dense.shape
    if store in TOLERANCE:
        # near a tie the last bit of the narrower dtypes may turn with it
        unit = torch.finfo(dtype).eps if dtype != torch.float32 else TOLERANCE[store]
        assert (mine.float() - dense).abs().max() <= unit * dense.abs().max()
    else:
        assert torch.equal(mine, dense.to(dtype))


@pytest.mark.parametrize("store", CASES, ids=lambda case: case.__name__)
def test_rows_are_those_of_the_whole(store) -> None:  # noqa: ANN001
    weight, _ = store(_matrix())
    whole = weight.dense(torch.float32)
    assert torch.equal(weight.block(torch.float32, slice(123, 277)), whole[123:277])
    indices = torch.tensor([303, 0, 131, 131, 7])
    assert torch.equal(weight.lookup(torch.float32, indices), whole[indices])
    swapped = SwappedHalves(weight)
    turned = torch.cat((whole[152:], whole[:152]))
    assert torch.equal(swapped.dense(torch.float32), turned)
    assert torch.equal(swapped.block(torch.float32, slice(100, 200)), turned[100:200])
    assert torch.equal(swapped.lookup(torch.float32, indices), turned[indices])


@pytest.mark.parametrize("kind", quantised.KINDS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_float8_code_is_exact(kind: torch.dtype, dtype: torch.dtype) -> None:
    codes = torch.arange(256, dtype=torch.uint8)[None]
    expected = torch.from_numpy(quantised.KINDS[kind])[None]
    out = torch.empty(1, 256, dtype=dtype)
    widen(codes, kind, out)
    # without the codes that are not finite another way is taken
    finite = expected.isfinite()
    for scale in (1.0, 0.3, 300.0):
        narrow = torch.empty(1, int(finite.sum()), dtype=dtype)
        widen(codes[finite][None], kind, narrow, scale)
        assert torch.equal(narrow[0], (expected[finite] * torch.tensor(scale)).to(dtype))
    assert torch.equal(out.isnan(), expected.isnan())
    assert torch.equal(out.nan_to_num(), expected.to(dtype).nan_to_num())
    assert torch.equal(out.signbit()[~out.isnan()], expected.signbit()[~expected.isnan()])
    one_by_one = float8_values(codes, kind).to(dtype)
    assert torch.equal(one_by_one.nan_to_num(), out.nan_to_num())
    assert torch.equal(one_by_one.isnan(), out.isnan())
    scaled = Float8Weight(codes.view(kind), torch.tensor(0.3)).dense(torch.float32)
    assert torch.equal(scaled.nan_to_num(), (expected * torch.tensor(0.3)).nan_to_num())


@pytest.mark.parametrize(("rows", "columns", "start"), [(3, 5, 0), (4, 6, 1), (3, 7, 3)])
def test_odd_sizes_and_places_are_exact(rows: int, columns: int, start: int) -> None:
    file = torch.randint(0, 127, (start + rows * columns,), dtype=torch.uint8)
    codes = file[start:].view(rows, columns).view(torch.float8_e4m3fn)
    for scale in (1.0, 0.5):
        mine = Float8Weight(codes, torch.tensor(scale)).dense(torch.bfloat16)
        expected = torch.from_numpy(quantised.E4M3[file[start:]] * np.float32(scale))
        assert torch.equal(mine.float(), expected.view(mine.shape))


@pytest.mark.parametrize("name", FORMATS)
def test_random_blocks_equal_the_gguf_package(name: str) -> None:
    form, random = FORMATS[name], np.random.default_rng(3)
    kind = gguf.GGMLQuantizationType[name]
    assert gguf.GGML_QUANT_SIZES[kind] == (form.num_numbers, form.num_bytes)
    raw = random.integers(0, 256, (64, 3 * form.num_bytes), dtype=np.uint8)
    # any bytes at all: float16 scales that are not finite too
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(raw, kind)
    mine = GGUFWeight(torch.from_numpy(raw), form).dense(torch.float32)
    assert np.array_equal(mine.numpy(), expected, equal_nan=True)


def test_nvfp4_padding_is_cut_and_columns_are_scaled() -> None:
    before = torch.rand(500, generator=torch.Generator().manual_seed(2)) + 0.5
    matrix = _matrix(301, 500)
    pieces, dense = quantised.nvfp4(matrix)
    scales = NVFloat4Scales(pieces["weight_scale"], pieces["weight_scale_2"])
    padded = NVFloat4Weight(pieces["weight"], scales)
    assert padded.shape == (304, 512)
    assert padded.fitted((303, 400)) is padded
    fitted = padded.fitted((301, 500))
    assert (fitted.dense(torch.float32) - dense).abs().max() <= 3e-7 * dense.abs().max()
    pieces, dense = quantised.nvfp4(matrix, before)
    columns = torch.nn.functional.pad(before, (0, 12))
    scales = NVFloat4Scales(pieces["weight_scale"], pieces["weight_scale_2"], columns)
    fitted = NVFloat4Weight(pieces["weight"], scales).fitted((301, 500))
    assert (fitted.dense(torch.float32) - dense).abs().max() <= 3e-7 * dense.abs().max()
    assert (dense - matrix).abs().max() < 0.2 * matrix.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_of_several_pieces_is_that_of_the_dense_weights(dtype: torch.dtype) -> None:
    stored = [_float8(_matrix(1100)), _nvfp4(_matrix(64)), _gguf("Q4_K")(_matrix(700))]
    plain = _matrix(10)
    parts = (*(weight for weight, _ in stored), PlainWeight(plain))
    whole = torch.cat([*(weight.dense(dtype) for weight, _ in stored), plain.to(dtype)])
    x = torch.randn(2, 3, 512).to(dtype)
    mine, theirs = StoredLinear(parts)(x), nn.functional.linear(x, whole)
    assert mine.dtype == dtype
    # the sums run in another order when fewer rows are multiplied at once
    assert (mine - theirs).abs().max() <= 2 * torch.finfo(dtype).eps * theirs.abs().max()


def test_linear_passes_gradients_on() -> None:
    weight, dense = _float8(_matrix(700))
    x = torch.randn(3, 512, requires_grad=True)
    StoredLinear((weight,))(x).sum().backward()
    assert torch.allclose(x.grad, dense.sum(0).expand(3, -1), rtol=1e-4, atol=1e-5)


def test_embedding_expands_only_what_is_read() -> None:
    weight, dense = _gguf("Q6_K")(_matrix())
    table = StoredEmbedding(weight, torch.bfloat16)
    ids = torch.tensor([[5, 303], [0, 5]])
    assert torch.equal(table(ids), dense.bfloat16()[ids])
    read: list[int] = []
    fill = weight.fill
    weight.fill = lambda out, rows: (read.append(len(out)), fill(out, rows))
    table(ids)
    assert read == [4]


@pytest.mark.parametrize("store", CASES, ids=lambda case: case.__name__)
def test_saved_and_moved_weights_are_equal(store) -> None:  # noqa: ANN001
    """Every byte is in the state, and `.to(device)` takes every one of them along."""
    (weight, _), (other, _) = store(_matrix()), store(_matrix() * 2)
    linear = StoredLinear((other,))
    assert not torch.equal(other.dense(torch.float32), weight.dense(torch.float32))
    linear.load_state_dict(StoredLinear((weight,)).state_dict())
    assert torch.equal(other.dense(torch.float32), weight.dense(torch.float32))
    moved = linear.to("meta")
    assert {buffer.device.type for buffer in moved.buffers()} == {"meta"}
    assert sum(b.nbytes for b in weight.buffers()) < 1.2 * weight.shape.numel()
