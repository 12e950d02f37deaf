"""A processor without products of bfloat16 numbers multiplies in float32, as exactly."""

import json
import logging
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from kleinod.bench.likeness import mean_squared_error, psnr
from kleinod.cli.app import app
from kleinod.compute import matmul
from kleinod.diffusion.loading import load_sampler
from kleinod.quantization import int8
from kleinod.quantization.int8 import Int8Linear
from kleinod.quantization.stored import PlainWeight, StoredLinear

CPU = torch.device("cpu")


@pytest.fixture
def without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matmul, "has_bfloat16", lambda: False)


def test_only_bfloat16_on_such_a_processor_is_multiplied_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert matmul.has_bfloat16() == torch.ops.mkldnn._is_mkldnn_bf16_supported()
    wide = {}
    for has in (True, False):
        monkeypatch.setattr(matmul, "has_bfloat16", lambda has=has: has)
        for device in (CPU, torch.device("meta")):
            wide[has, device.type] = matmul.product_dtype(torch.bfloat16, device)
        assert matmul.product_dtype(torch.float16, CPU) == torch.float16
    assert [number for number in wide.values() if number == torch.float32] == [torch.float32]
    assert wide[False, "cpu"] == torch.float32


@pytest.mark.usefixtures("without_bfloat16")
@pytest.mark.parametrize("rows", [40, 1100])
def test_a_product_is_rounded_once(rows: int) -> None:
    torch.manual_seed(0)
    weights = torch.randn(rows, 96).bfloat16(), torch.randn(8, 96).bfloat16()
    x = torch.randn(2, 5, 96).bfloat16()
    made = StoredLinear(tuple(PlainWeight(weight) for weight in weights))(x)
    exact = F.linear(x.double(), torch.cat(weights).double())
    assert made.dtype == torch.bfloat16
    # half of the last of eight bits, and what float32 sums add to it
    assert ((made.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-5).all()


def test_a_compiled_block_is_one_graph() -> None:
    linear = StoredLinear((PlainWeight(torch.randn(16, 32).bfloat16()),))
    x = torch.randn(3, 32).bfloat16()
    with torch.inference_mode():
        compiled = torch.compile(linear, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), linear(x))


@pytest.mark.usefixtures("without_bfloat16")
def test_expanded_int8_is_multiplied_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "kernel", lambda device_type: int8.EXPANDED)
    torch.manual_seed(0)
    linear, x = Int8Linear((torch.randn(64, 96),)), torch.randn(5, 96).bfloat16()
    assert linear.codes is not None
    weight = linear.codes * linear.channel_scale[:, None]
    assert torch.equal(linear(x), F.linear(x.float(), weight).bfloat16())


@pytest.mark.usefixtures("without_bfloat16")
def test_weights_stay_the_mapped_file_and_the_autoencoder_is_wide(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, "kleinod"):
        pipeline = load_sampler("mini", device="cpu", dtype="bfloat16")
    assert "no products of bfloat16" in caplog.text
    for name in ("transformer", "text_encoder"):
        module = pipeline.residents.use(name)
        assert not any(isinstance(child, torch.nn.Linear) for child in module.modules())
        held = {tensor.dtype for tensor in module.state_dict().values()}
        assert held == {torch.bfloat16}
    autoencoder = pipeline.residents.use("autoencoder")
    assert autoencoder.dtype == torch.float32
    assert pipeline.encode_references([tiny.picture(64, 64)]).dtype == torch.bfloat16


def _painted(**options: str) -> np.ndarray:
    pipeline = load_sampler("mini", device="cpu", dtype="bfloat16", **options)
    reference = Image.new("RGB", (128, 128), "teal")
    made = pipeline.generate("add a red apple", reference_images=(reference,), seed=3)
    return np.asarray(made.images[0].image)


def test_the_picture_is_the_same_but_for_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = _painted()
    monkeypatch.setattr(matmul, "has_bfloat16", lambda: False)
    difference = psnr(mean_squared_error(plain, _painted()))
    # between bfloat16 and float32 on this model: 41 dB and more
    assert difference is None or difference > 38


@pytest.mark.usefixtures("without_bfloat16")
def test_the_receipt_says_it(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    call = ["generate", "a cat", "-q", "-o", str(out), "--dtype", "bfloat16"]
    result = CliRunner().invoke(app, [*call, "--receipt", str(tmp_path / "a.json")])
    assert result.exit_code == 0, result.output
    receipt = json.loads((tmp_path / "a.json").read_text())
    assert receipt["numbers"] == {"dtype": "bfloat16", "products": "float32"}
