"""`kleinod bench`: operations are counted right, figures belong to who gave them, nothing stays.

Runs are of tiny models: what they measure is not looked at, only that it is measured and told.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from tiny_folder import AUTOENCODER, TEXT_ENCODER, TEXT_LAYERS, TRANSFORMER
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from typer.testing import CliRunner

from kleinod.bench import random_model
from kleinod.bench.chart import COLOURS, PAPER, drawn
from kleinod.bench.comparison import Comparison, Engine, summarised
from kleinod.bench.likeness import mean_squared_error, psnr, ssim
from kleinod.bench.process import Worker
from kleinod.bench.random_model import Geometry, RandomModel
from kleinod.bench.work import autoencoder_work, step_work, text_work
from kleinod.cli import app
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, KleinodError
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer

TINY = Geometry(TRANSFORMER, TEXT_ENCODER, AUTOENCODER)


def _counted(call: object) -> int:
    # the CPU's own kernel of attention is not counted
    plain = sdpa_kernel(SDPBackend.MATH)
    with FlopCounterMode(display=False) as counter, torch.inference_mode(), plain:
        call()  # type: ignore[operator]
    return int(counter.get_total_flops())


def test_a_steps_operations_are_those_that_torch_counts() -> None:
    model = Transformer(TRANSFORMER)
    image, text = torch.zeros(20, 4).long(), torch.zeros(7, 4).long()
    words = torch.randn(1, 7, TRANSFORMER.joint_attention_dim)
    counted = _counted(lambda: model(torch.randn(1, 20, 128), torch.ones(1), words, image, text))
    assert step_work(TRANSFORMER, 20, 7).total == counted


def test_the_text_encoders_operations_are_those_that_torch_counts() -> None:
    model = TextEncoder(TEXT_ENCODER, TEXT_LAYERS)
    ids = torch.zeros(1, 150).long()
    for words, keys in ((150, 150), (9, 64)):
        mask = (torch.arange(150) < words).long()[None]
        made = text_work(TEXT_ENCODER, 3, 150, keys).total
        assert made == _counted(lambda mask=mask: model(ids, mask))


def test_the_autoencoders_operations_are_its_convolutions_and_products() -> None:
    """Counted again by hooks: twice the weights that each number of a result takes."""
    model, counts = Autoencoder(AUTOENCODER).eval(), []

    def count(module: torch.nn.Module, _: object, out: torch.Tensor) -> None:
        counts.append(2 * out.numel() * module.weight[0].numel())  # type: ignore[index]

    for module in model.decoder.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    model.decoder(torch.randn(1, 32, 8, 8))
    work = autoencoder_work(AUTOENCODER, 4, 4)["decode"]
    assert work.linear == sum(counts)
    # one head over 64 positions, both products
    assert work.attention == 4 * 64**2 * AUTOENCODER.block_out_channels[-1]


def test_published_size_takes_the_operations_that_the_design_names() -> None:
    sizes = random_model.SIZES
    assert step_work(sizes["klein-4b"].transformer, 256, 512).total == pytest.approx(
        4.9e12, rel=0.01
    )
    work = text_work(sizes["klein-4b"].text_encoder, 27, 512, 512)
    assert work.linear == pytest.approx(2.8e12, rel=0.01)
    nine = step_work(sizes["klein-9b"].transformer, 4096, 512)
    assert 4 * nine.total == pytest.approx(302e12 - 4 * 2e12, rel=0.05)


def test_likeness_equals_scikit_images() -> None:
    random = np.random.default_rng(0)
    a = random.integers(0, 256, (48, 40, 3), dtype=np.uint8)
    b = (a * 0.9 + random.integers(0, 25, a.shape)).astype(np.uint8)
    assert psnr(mean_squared_error(a, b)) == pytest.approx(peak_signal_noise_ratio(a, b))
    theirs = structural_similarity(
        *(a, b), channel_axis=2, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(a, b) == pytest.approx(theirs, abs=1e-12)
    assert psnr(0.0) is None and ssim(a, a) == pytest.approx(1)


@pytest.fixture
def random_tiny(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> RandomModel:
    monkeypatch.setattr(random_model, "BLOCK_NUMBERS", 9973)
    tokenizer = tiny_model / "tokenizer" / "tokenizer.json"
    return RandomModel("tiny", TINY, num_layers=3, tokenizer=tokenizer)


def _made(model: RandomModel, folder: Path | None) -> list[Path]:
    """The folder while it is there, and the seen progress; then what is left."""
    seen: list[float] = []
    with random_model.random_model(
        model, folder, is_held_whole=False, progress=seen.append
    ) as path:
        assert (path / "model_index.json").is_file()
        # 27 layers are read of a published model; the tiny one has three
        facts = json.loads((path / "kleinod.json").read_text())
        own = facts | {"text_layers": [1, 2, 3], "max_text_tokens": 32}
        (path / "kleinod.json").write_text(json.dumps(own))
        result = load_sampler(path, device="cpu").generate("a fox", width=64, height=64, seed=1)
        assert result.images[0].image.size == (64, 64)
    assert seen == sorted(seen) and (not seen or seen[-1] == 1.0)
    return [path] if path.exists() else []


def test_random_weights_paint_and_their_temporary_folder_goes(
    random_tiny: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_model.tempfile, "tempdir", str(tmp_path))
    assert _made(random_tiny, None) == []
    assert list(tmp_path.iterdir()) == []


def test_a_named_folder_is_kept_and_taken_again(random_tiny: RandomModel, tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    assert _made(random_tiny, folder) == [folder]
    before = (folder / "model_index.json").stat().st_mtime_ns
    assert _made(random_tiny, folder) == [folder]
    assert (folder / "model_index.json").stat().st_mtime_ns == before
    other = RandomModel("klein-4b", TINY, 3, random_tiny.tokenizer)
    with pytest.raises(InputError, match=r"folder: .* holds no random klein-4b; name another"):
        _made(other, folder)


def test_a_failed_writing_leaves_nothing(
    random_tiny: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(fraction: float) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        with random_model.random_model(
            random_tiny, tmp_path / "kept", is_held_whole=False, progress=stop
        ):
            pass
    assert list(tmp_path.iterdir()) == []


def test_too_little_memory_or_disk_is_one_line(
    random_tiny: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random_model, "available_bytes", lambda: 10**9)
    with pytest.raises(InputError, match=r"memory: 1.0 GB are free, .* tiny's size need 1.0"):
        _made(random_tiny, tmp_path / "kept")
    monkeypatch.undo()
    usage = random_model.shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(random_model.shutil, "disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"disk: .* has 0.0 GB free, the weights need 0.0"):
        _made(random_tiny, tmp_path / "kept")


def _comparison() -> Comparison:
    def call(seconds: float) -> dict[str, float]:
        parts = {"encode": 0.0, "text": seconds, "denoise": 4 * seconds, "decode": seconds}
        return parts | {"per_step": seconds, "total": 6 * seconds}

    def engine(seconds: tuple[float, ...], resident: int) -> Engine:
        facts = {
            **{"load_seconds": 1.0, "model": "m", "size": 64, "num_steps": 4, "threads": 2},
            **{"num_references": 0, "quantize": None, "dtype": "bfloat16", "device": "cpu"},
        }
        calls = [call(s) for s in seconds]
        peaks = {"resident_bytes": resident, "private_bytes": 1, "device_bytes": None}
        return Engine(facts, call(9.0), calls, calls, [0.5] * len(calls), peaks)

    peer = engine((2.0, 6.0, 3.0), 4 * 10**9)
    peer.repeated = []
    work = {
        "stages": {
            s: {"linear": 1e9, "attention": 1e8}
            for s in ("text", "per_step", "encode_reference", "decode")
        },
        "products": {
            "text": "bfloat16",
            "per_step": "int8",
            "encode_reference": "bfloat16",
            "decode": "bfloat16",
        },
    }
    slow = {"bfloat16": 1e9, "int8": 1e9, "attention": 5e8}
    fast = {"bfloat16": 2e9, "int8": 4e9, "attention": 1e9}
    rates = [(slow, slow), (fast, slow), (fast, fast)]
    return Comparison(
        {"kleinod": engine((1.0, 2.0, 3.0), 2 * 10**9), "diffusers": peer}, work, rates
    )


def test_floor_is_the_work_at_the_best_rate_of_its_own_numbers() -> None:
    report = summarised(_comparison())
    assert report["floor_seconds"]["text"] == pytest.approx(1e9 / 2e9 + 1e8 / 1e9)
    assert report["floor_seconds"]["per_step"] == pytest.approx(1e9 / 4e9 + 1e8 / 1e9)
    assert report["floor_seconds"]["total"] == pytest.approx(0.6 + 4 * 0.35 + 0.6)


def test_times_floor_is_taken_at_the_rates_around_each_call() -> None:
    times = summarised(_comparison())["times_floor"]["per_step"]
    around = (1 + 0.2, 1 / 2.5 + 0.1 / 0.75, 1 / 4 + 0.1)
    assert times["values"] == pytest.approx([1 / around[0], 2 / around[1], 3 / around[2]])
    assert times["median"] == times["values"][1]


def test_ratios_are_taken_within_a_round() -> None:
    """The median of 2/1, 6/2 and 3/3, not the ratio of the medians 3 and 2."""
    ratios = summarised(_comparison())["ratios"]["diffusers"]
    assert ratios["total"]["values"] == [2.0, 3.0, 1.0] and ratios["total"]["median"] == 2.0
    assert ratios["memory"]["median"] == 2.0


def test_chart_draws_each_stage_as_long_as_it_took() -> None:
    image = drawn(summarised(_comparison()))
    pixels = np.asarray(image)
    assert tuple(pixels[0, 0]) == tuple(bytes.fromhex(PAPER[1:]))
    lengths = {}
    for stage in ("text", "denoise", "decode"):
        is_stage = (pixels == np.frombuffer(bytes.fromhex(COLOURS[stage][1:]), np.uint8)).all(2)
        # the longest run of a row: diffusers' bar, medians 3, 12 and 3 seconds
        lengths[stage] = is_stage.sum(axis=1).max()
    assert lengths["denoise"] == pytest.approx(4 * lengths["text"], abs=3)
    assert lengths["text"] == pytest.approx(lengths["decode"], abs=2)


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.slow
def test_the_documents_example_tells_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[1] / "docs" / "bench.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^\$ kleinod bench (--model mini.*)$", page, re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    out = _run(*shlex.split(line))
    for row in ("load", "first call", "encode a reference", "text", "a step", "decode"):
        assert re.search(rf"^{row} +\d", out, re.MULTILINE), row
    assert (
        "mini: 64 × 64, 2 steps, 0 references, float32 on cpu, offload none, attention: pytorch"
        in out
    )
    assert "pictures a minute; peak memory resident" in out
    with Image.open("speed.png") as chart:
        assert chart.width == 1600


@pytest.mark.slow
def test_bench_against_diffusers_alternates_and_draws(tmp_path: Path) -> None:
    model, chart = tiny.saved(tmp_path / "model"), tmp_path / "chart.png"
    common = (
        "--model",
        str(model),
        "--size",
        "64",
        "--steps",
        "2",
        "--calls",
        "2",
        "--references",
        "1",
    )
    out = _run(*common, "--against", "diffusers", "--chart", str(chart), "--json")
    report = json.loads(out)
    theirs = report["engines"]["diffusers"]
    assert theirs["facts"]["version"] == "0.42.1" and theirs["facts"]["dtype"] == "bfloat16"
    for stage in ("encode", "encode_reference", "text", "denoise", "decode", "total"):
        ratio = report["ratios"]["diffusers"][stage]
        both = [report["engines"][name]["seconds"][stage]["values"] for name in report["engines"]]
        assert ratio["values"] == pytest.approx([b / a for a, b in zip(*both, strict=True)])
    assert chart.stat().st_size > 1000


@pytest.mark.slow
def test_quality_of_lossy_modes_on_mini() -> None:
    report = json.loads(_run("--quality", "--pictures", "2", "--size", "64", "--json"))
    rows = {row["name"]: row for row in report["modes"]}
    assert next(iter(rows)) == "exact" and "psnr" not in rows["exact"]
    for name in ("float32", "int8", "fp8-products", "fp8", "gguf-q8_0", "gguf-q4_0"):
        if rows[name]["psnr"] is None:
            # the very bits of exact: fp8 products where a processor computes both in float32
            assert name == "fp8-products" and rows[name]["ssim"] == 1
            continue
        assert 10 < rows[name]["lowest_psnr"] <= rows[name]["psnr"] < 70, name
        assert 0 < rows[name]["ssim"] <= 1
    assert all(0 <= row["accuracy"]["concept"] <= 1 for row in rows.values())
    assert rows["gguf-q8_0"]["psnr"] > rows["gguf-q4_0"]["psnr"]
    sizes = [rows[name]["transformer_bytes"] for name in ("exact", "fp8", "gguf-q4_0")]
    assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "mini", "--random-weights", "klein-4b"], "--random-weights: a model is given"),
        (["--folder", "x"], "--folder: keeps random weights; give --random-weights too"),
        (["--calls", "0"], "--calls: 0; give one from 1 to 1000"),
        (["--chart", "x.jpg"], "--chart: x.jpg is no .png in a folder that exists; name one"),
        (["--quality", "--against", "diffusers"], "--against: --quality compares kleinod's own"),
        (["--size", "100"], "width: 100 is not a multiple of 16; the nearest is 96"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {message}") and result.stderr.count("\n") == 1


def test_a_missing_peer_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    from kleinod.cli import bench

    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    result = CliRunner().invoke(app, ["bench", "--against", "diffusers"])
    assert result.stderr.startswith(
        "error: --against: the package diffusers is missing; run `pip install '.[bench]'`"
    )


def test_a_worker_that_dies_is_told_with_its_signal() -> None:
    with Worker("probe") as worker:
        os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(KleinodError, match="process of probe ended by signal SIGKILL; was mem"):
            worker.ask("rates")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_bench_leaves_no_process_and_no_folder(
    tmp_path: Path, kind: signal.Signals
) -> None:
    mark = {"KLEINOD_BENCH_TEST": tmp_path.name, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "kleinod", "bench", "--quality", "--pictures", "500"]
    process = subprocess.Popen(command, env=os.environ | mark, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not list(tmp_path.glob("kleinod-bench-*/picture.png")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.1)
    process.send_signal(kind)
    assert process.communicate(timeout=300)[1] == "stopped\n" and process.returncode == 130
    assert list(tmp_path.iterdir()) == []
    # a worker that was killed may still be ending
    deadline = time.monotonic() + 60
    while [pid for pid in _processes() if tmp_path.name in _environment(pid)]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _processes() -> list[str]:
    return [path.name for path in Path("/proc").iterdir() if path.name.isdigit()]


def _environment(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_text(errors="replace")
    except OSError:
        return ""
