"""The command as a user meets it: pictures, reports, exit statuses."""

import hashlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from safetensors.torch import load_file, save_file
from tiny_folder import save_tiny_model
from typer.testing import CliRunner, Result

import kleinod
from kleinod import catalog
from kleinod.cli import app
from kleinod.cli.progress_bars import progress_bars
from kleinod.diffusion import loading
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.provenance import container
from kleinod.safety.pictures import Drawings
from kleinod.safety.verdicts import SEXUAL


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    empty = tmp_path / "here"
    empty.mkdir()
    monkeypatch.chdir(empty)
    return empty


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _generate(model: Path, *arguments: object) -> Result:
    return _run("generate", "a cat", "--model", model, *arguments)


def _generated_json(model: Path, *arguments: object) -> dict[str, Any]:
    result = _generate(model, "--json", *arguments)
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


def _assert_refused(result: Result, message: str, folder: Path) -> None:
    """Exit status 2, one line on stderr, nothing on stdout, nothing written."""
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert message in result.stderr
    assert list(folder.iterdir()) == []


# Pictures and reports


@pytest.mark.parametrize("name", ["new", "new/deeper", "new/deeper/fox.png"])
def test_created_folder_is_reported(tiny_model: Path, folder: Path, name: str) -> None:
    result = _generate(tiny_model, "-o", name)
    created = name.removesuffix("/fox.png")
    assert result.exit_code == 0 and f"created folder {created}\n" in result.stderr
    assert "created folder" not in _generate(tiny_model, "-o", name).stderr
    assert "created" not in _generate(tiny_model, "-q", "-o", f"quiet/{name}").output


@pytest.mark.parametrize("count", [1, 2, 4])
def test_blocked_image_is_named_among_several(
    tiny_model: Path, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = iter([0.95, 0.1, 0.95, 0.1] * 2)
    monkeypatch.setattr(Drawings, "scores", lambda *_: {SEXUAL: next(turns)})
    result = _generate(tiny_model, "--seed", 7, "-n", count)
    assert result.exit_code == 3
    one, three = (f"image {i} of {count} (seed {6 + i}, prompt 'a cat')" for i in (1, 3))
    line = result.stderr.splitlines()[-1]
    where = {1: "", 2: f"{one}: ", 4: f"{one}, {three}: "}[count]
    assert line.startswith(f"moderated: {where}the result was blocked: sexual content")
    turns = iter([0.95, 0.1, 0.95, 0.1])
    private = _generate(tiny_model, "--seed", 7, "-n", count, "--private", "--json")
    assert "a cat" not in private.stderr
    facts = json.loads(private.stdout)
    assert [one["seed"] for one in facts["moderated"]] == [7, 9][: max(1, count // 2)]


@pytest.mark.parametrize("option", ["--offload", "--residency"])
@pytest.mark.parametrize(("word", "policy"), [("sequential", "model"), ("all", "none")])
def test_old_words_of_offload_are_understood(
    tiny_model: Path, option: str, word: str, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert _generate(tiny_model, option, word).exit_code == 0
    assert f"offload: '{word}' is deprecated" in caplog.text and f"give '{policy}'" in caplog.text
    assert "--offload: 'nope' is unknown" in _generate(tiny_model, option, "nope").stderr


@pytest.mark.parametrize("name", ["fp32", "float32", "torch.float32", "bf16", "BF16"])
def test_number_formats_have_several_spellings(tiny_model: Path, name: str) -> None:
    assert _generate(tiny_model, "--dtype", name).exit_code == 0
    assert "float16 is slow" in _generate(tiny_model, "--dtype", "fp16").stderr
    assert "--dtype: 'f8' is unknown; give float32" in _generate(tiny_model, "--dtype", "f8").stderr


def test_picture_is_written_and_reported(tiny_model: Path, folder: Path) -> None:
    result = _generate(tiny_model, "--seed", 7)
    assert result.exit_code == 0
    assert "kleinod-7.png  seed 7\n" in result.stdout
    for stage in ("load", "text", "denoise", "decode", "total"):
        assert f"{stage} " in result.stdout
    with Image.open(folder / "kleinod-7.png") as picture:
        assert picture.size == (96, 96)
        assert picture.text.pop(container.CHUNK).startswith('{"batch"')
        assert picture.text == {
            "Software": f"kleinod {kleinod.__version__}",
            "model": "tiny",
            "seed": "7",
            "steps": "2",
        }


def test_json_is_one_object(tiny_model: Path, folder: Path) -> None:
    summary = _generated_json(tiny_model, "--seed", 7, "--width", 64, "-o", "a.png")
    expected = {*("images", "num_moderated", "moderated", "warnings", "model", "timings")}
    expected |= {"peak_memory_bytes"}
    assert summary.keys() == expected
    assert summary["model"] == "tiny"
    digest = hashlib.sha256((folder / "a.png").read_bytes()).hexdigest()
    path = str(folder / "a.png")
    (image,) = summary["images"]
    assert re.fullmatch("[0-9a-f]{12}", image.pop("watermark"))
    size = {"width": 64, "height": 96}
    assert image == {"path": path, "seed": 7, **size, "c2pa": "on", "sha256": digest}
    stages = {"load", "text", "denoise", "decode", "finish", "total"}
    assert {f"{stage}_seconds" for stage in stages} <= summary["timings"].keys()
    assert all(seconds >= 0 for seconds in summary["timings"].values())
    total = summary["timings"].pop("total_seconds")
    assert total == pytest.approx(sum(summary["timings"].values()))
    assert summary["peak_memory_bytes"] > 50_000_000


def test_picture_is_the_one_that_python_paints(tiny_model: Path, folder: Path) -> None:
    reference = Image.effect_mandelbrot((120, 90), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    reference.save("reference.png")
    plain = "--watermark", "none"
    _generated_json(tiny_model, "--seed", 7, "-n", 2, "-r", "reference.png", "--steps", 3, *plain)
    pipeline = load_sampler(tiny_model)
    result = pipeline.generate(
        "a cat", reference_images=[reference], num_inference_steps=3, seed=7, num_images=2
    )
    for made in result.images:
        with Image.open(folder / f"kleinod-{made.seed}.png") as picture:
            assert np.array_equal(np.asarray(picture), np.asarray(made.image))


def test_every_option_reaches_the_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = save_tiny_model(tmp_path / "base", is_distilled=False)
    seen: dict[str, Any] = {}
    resolve, load = Sampler.resolve, loading.load_sampler

    def spied_resolve(self: Sampler, request: kleinod.ImageRequest) -> kleinod.ResolvedRequest:
        seen["request"] = seen.get("request", request)
        return resolve(self, request)

    def spied_load(model: str, **options: object) -> Sampler:
        seen["load"] = options
        return load(model, **options)

    monkeypatch.setattr(Sampler, "resolve", spied_resolve)
    monkeypatch.setattr(loading, "load_sampler", spied_load)
    _generated_json(
        model,
        *("--width", 64, "--height", 80, "--steps", 3, "--guidance", 3.0, "--seed", 5, "-n", 2),
        *("--negative-prompt", "a dog", "--device", "cpu", "--dtype", "bfloat16"),
        *("--offload", "model", "--tokenizer", model / "tokenizer"),
        *("--quantize", "int8", "--no-compile"),
        *("--text-encoder", model / "text_encoder", "--autoencoder", model / "vae"),
    )
    assert seen["request"] == kleinod.ImageRequest(
        "a cat",
        width=64,
        height=80,
        num_inference_steps=3,
        guidance_scale=3.0,
        negative_prompt="a dog",
        seed=5,
        num_images=2,
    )
    del seen["load"]["progress"]
    assert seen["load"] == {
        "device": "cpu",
        "dtype": "bfloat16",
        "offload": "model",
        "quantize": "int8",
        "compile": False,
        "components": kleinod.Components(
            model / "text_encoder", model / "vae", model / "tokenizer"
        ),
    }


def test_seed_repeats_the_picture(tiny_model: Path) -> None:
    # a signature holds a random number: without one the whole file repeats
    unsigned = "--c2pa", "off"
    first, second = (
        _generated_json(tiny_model, "--seed", 3, *unsigned)["images"][0] for _ in range(2)
    )
    other = _generated_json(tiny_model, *unsigned)["images"][0]
    assert first["sha256"] == second["sha256"] != other["sha256"]
    assert first["path"] != second["path"]


@pytest.mark.slow
def test_references_are_read_in_every_mode(tiny_model: Path) -> None:
    for index, mode in enumerate(("RGB", "L", "P", "RGBA", "LA", "1", "I;16")):
        Image.new(mode, (100, 70)).save(f"{index}.png")
    Image.new("CMYK", (100, 70)).save("7.jpg")
    names = [f"{index}.png" for index in range(7)] + ["7.jpg"]
    for name in names:
        assert _generated_json(tiny_model, "-r", name, "--steps", 1)["images"][0]["width"] == 96


def test_quiet_prints_nothing(tiny_model: Path, folder: Path) -> None:
    result = _generate(tiny_model, "--quiet", "--seed", 7)
    assert (result.exit_code, result.output) == (0, "")
    assert (folder / "kleinod-7.png").is_file()


def test_progress_shows_each_stage_on_a_terminal() -> None:
    screen = io.StringIO()
    with progress_bars(quiet=False, console=Console(file=screen, force_terminal=True)) as report:
        report("loading", 1.0)
        report("painting", 0.5)
    assert "loading" in screen.getvalue() and "painting" in screen.getvalue()


@pytest.mark.parametrize(("quiet", "is_terminal"), [(True, True), (False, False)])
def test_progress_is_silent_when_quiet_or_piped(quiet: bool, is_terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal)
    with progress_bars(quiet=quiet, console=console) as report:
        report("loading", 1.0)
    assert screen.getvalue().strip() == ""


def test_models_lists_what_is_known_and_present(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLEINOD_MODELS", str(tiny_model.parent))
    monkeypatch.setitem(catalog.KNOWN, "tiny", catalog.KnownModel("tiny", "x/tiny", "Apache-2.0"))
    rows = {row["name"]: row for row in json.loads(_run("models", "--json").stdout)}
    assert rows.keys() >= {"mini", "klein-4b", "klein-base-9b", "tiny"}
    assert rows["tiny"]["path"] == str(tiny_model)
    head, *lines = _run("models").stdout.splitlines()
    assert head.split()[:2] == ["NAME", "VARIANT"]
    assert len(lines) == len(rows)
    assert any(line.startswith("tiny ") and str(tiny_model) in line for line in lines)


# Bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "100"], "--width: 100 is not a multiple of 16; the nearest is 96"),
        (["--height", "48"], "height: 48 is under 64"),
        (["--width", "4096", "--height", "2048"], "4096x2048 is over 4 megapixels"),
        (["--width", "1024", "--height", "64"], "1024x64 is longer than 8:1"),
        (["--steps", "0"], "--steps: 0 is under 1"),
        (["-n", "0"], "--num-images: 0 is under 1"),
        (["--seed", "-1"], "seed: -1 is under 0"),
        (["--width", "many"], "--width"),
        (["--dtype", "int4"], "--dtype"),
        (["--strength", "1"], "--strength"),
        (["-r", "absent.png"], "absent.png (No such file or directory)"),
        (["-o", "/proc/kleinod/cat.png"], "output: cannot write /proc/kleinod/cat.png"),
        (["-o", "cat.psd"], "output: cat.psd is neither a folder nor a picture file"),
        (["--receipt", "receipt.txt"], "receipt: receipt.txt must be a .json file"),
        (["--receipt", "/proc/kleinod/a.json"], "receipt: cannot write /proc/kleinod/a.json"),
        (["--watermark", "loud"], "--watermark"),
        (["--c2pa", "maybe"], "--c2pa"),
    ],
)
def test_bad_option_is_refused_before_any_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.setattr(kleinod, "load", None)  # calling it would be a TypeError
    _assert_refused(_run("generate", "a cat", *arguments), message, folder)


@pytest.mark.parametrize("kind", ["empty", "truncated", "text", "small", "long", "bomb"])
def test_bad_reference_is_refused_before_any_model_is_loaded(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(kleinod, "load", None)
    path = tmp_path / f"{kind}.png"
    sizes = {"small": (63, 200), "long": (1000, 100), "bomb": (10_000, 9_500)}
    Image.new("1" if kind == "bomb" else "RGB", sizes.get(kind, (100, 100))).save(path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-30])
    elif kind in ("empty", "text"):
        path.write_text("" if kind == "empty" else "no picture")
    result = _run("generate", "a cat", "-r", path)
    _assert_refused(result, "--reference: ", folder)
    assert str(path) in result.stderr


def test_size_beyond_the_limit_with_the_models_default_is_refused(
    tiny_model: Path, folder: Path
) -> None:
    _assert_refused(_generate(tiny_model, "--width", 1024), "1024x96 is longer than 8:1", folder)


def test_unknown_model_is_refused(folder: Path) -> None:
    _assert_refused(_generate(Path("klein-5b")), "klein-5b", folder)


def test_unknown_device_is_refused(tiny_model: Path, folder: Path) -> None:
    _assert_refused(_generate(tiny_model, "--device", "abacus"), "device: abacus", folder)


def test_guidance_on_a_distilled_model_is_refused(tiny_model: Path, folder: Path) -> None:
    _assert_refused(_generate(tiny_model, "--guidance", 4), "--guidance: 4.0", folder)


def test_negative_prompt_without_guidance_is_refused(tiny_model: Path, folder: Path) -> None:
    result = _generate(tiny_model, "--negative-prompt", "a dog")
    _assert_refused(result, "--negative-prompt: 'a dog' has no effect", folder)


@pytest.fixture
def broken_model(tiny_model: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_model, tmp_path / "broken"))


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder", "tokenizer"])
def test_missing_component_is_refused(broken_model: Path, folder: Path, component: str) -> None:
    shutil.rmtree(broken_model / component)
    _assert_refused(_generate(broken_model), component, folder)


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("problem", ["missing", "unknown", "shape"])
def test_wrong_tensors_are_refused(
    broken_model: Path, folder: Path, component: str, problem: str
) -> None:
    file = broken_model / component / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    name = max(name for name in tensors if name.endswith(".weight"))
    if problem == "missing":
        del tensors[name]
    elif problem == "unknown":
        name = "stray.weight"
        tensors[name] = torch.ones(1)
    else:
        tensors[name] = torch.ones(3, 5)
    save_file(tensors, file)
    _assert_refused(_generate(broken_model), name, folder)


def test_file_that_is_no_model_is_refused(tmp_path: Path, folder: Path) -> None:
    for path in (tmp_path / "a.safetensors", tmp_path / "a.ckpt"):
        path.write_bytes(b"\x80\x04pickle")
        _assert_refused(_generate(path), "a.", folder)


def test_latents_that_are_not_finite_are_an_error(broken_model: Path, folder: Path) -> None:
    file = broken_model / "transformer" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["img_in.weight"].fill_(float("nan"))
    save_file(tensors, file)
    result = _generate(broken_model)
    # found in the latents, or in the weights where a processor has to convert them
    assert result.exit_code in (1, 2)
    assert result.stderr.startswith("error: ") and (
        "finite" in result.stderr or "NaN" in result.stderr
    )
    assert list(folder.iterdir()) == []


# The process


def _process(
    *arguments: object, environment: dict[str, str] | None = None
) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "kleinod", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **pipes, env=os.environ | (environment or {}))


def test_module_runs_and_tells_its_version() -> None:
    process = _process("--version")
    assert process.communicate() == (f"kleinod {kleinod.__version__}\n", "")
    assert process.returncode == 0


def test_mistake_ends_the_process_with_status_2_and_one_line(folder: Path) -> None:
    process = _process("generate", "a cat", "--width", 100)
    out, error = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert error == "error: --width: 100 is not a multiple of 16; the nearest is 96\n"
    assert list(folder.iterdir()) == []


def test_prompt_that_is_no_utf8_is_refused() -> None:
    command = [sys.executable.encode(), b"-m", b"kleinod", b"generate", b"\xff"]
    result = subprocess.run(command, capture_output=True)
    assert result.returncode == 2
    assert result.stderr.startswith(b"error: prompt: ") and result.stderr.count(b"\n") == 1


@pytest.mark.slow
def test_interrupt_ends_with_status_130_and_leaves_no_file(tiny_model: Path, folder: Path) -> None:
    # FORCE_COLOR makes rich draw the bars, which tell that painting has begun
    process = _process(
        *("generate", "a cat", "--model", tiny_model, "--steps", 1000),
        *("--width", 512, "--height", 512),
        environment={"FORCE_COLOR": "1"},
    )
    assert process.stderr is not None
    drawn = ""
    while "denoising" not in drawn:
        letter = process.stderr.read(1)
        assert letter, drawn
        drawn += letter
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=300)
    assert process.returncode == 130
    assert out == "" and error.endswith("stopped\n") and "Traceback" not in error
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    "statement",
    [
        "import kleinod; kleinod.ImageRequest, kleinod.InputError, kleinod.Components",
        "from kleinod.cli import app; app(['--help'])",
        "from kleinod.cli import app; app(['models'])",
        "from kleinod.cli import app; app(['generate', 'x', '--width', '100'])",
        "from kleinod.cli import app; app(['generate', 'x', '-r', 'absent.png'])",
        "from kleinod.cli import app; app(['verify', 'absent.png'])",
    ],
)
def test_what_paints_nothing_imports_no_torch(statement: str) -> None:
    code = (
        f"import sys\ntry:\n    {statement}\nexcept SystemExit:\n    pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
