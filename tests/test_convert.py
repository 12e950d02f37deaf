"""`kleinod convert`: bit-equal both ways, FP8 as the published formula, nothing overwritten."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import split_files
import tiny
import torch
from header_files import write_sparse
from published import Entries, as_fp8, entry, klein, write_sparse_gguf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner, Result

from kleinod.cli import app
from kleinod.weights import build
from kleinod.weights import convert as converting
from kleinod.weights.headers import read_header

WEIGHTS = "diffusion_pytorch_model.safetensors"
MODELS = {
    "transformer": (tiny.transformer, split_files.transformer_as_bfl),
    "autoencoder": (tiny.autoencoder, split_files.autoencoder_as_bfl),
}
CASES = pytest.mark.parametrize("component", MODELS)


def _convert(source: Path, destination: Path, target: str, *options: str) -> Result:
    arguments = ["convert", str(source), str(destination), "--to", target, *options]
    return CliRunner().invoke(app, arguments)


def _converted(source: Path, destination: Path, target: str) -> dict[str, Tensor]:
    result = _convert(source, destination, target)
    assert result.exit_code == 0, result.output
    file = Path(result.stdout.strip())
    read_header(file)
    return load_file(file)


def _assert_equal(mine: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert tensor.dtype == theirs[name].dtype and tensor.shape == theirs[name].shape, name
        assert torch.equal(tensor, theirs[name]), name


def _saved(component: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A folder that diffusers wrote, in bfloat16, and its state."""
    torch.manual_seed(0)
    model = MODELS[component][0]().bfloat16()
    model.save_pretrained(folder)
    return folder, model.state_dict()


def _bfl_file(component: str, folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """A file in BFL's layout, and its tensors."""
    torch.manual_seed(0)
    model, as_bfl = MODELS[component]
    tensors = {
        n: t.clone().contiguous() for n, t in as_bfl(model().bfloat16().state_dict()).items()
    }
    save_file(tensors, folder / "bfl.safetensors")
    return folder / "bfl.safetensors", tensors


@CASES
def test_diffusers_becomes_bfl_bit_for_bit(component: str, tmp_path: Path) -> None:
    source, state = _saved(component, tmp_path / "in")
    made = _converted(source, tmp_path / "out.safetensors", "bfl")
    _assert_equal(made, MODELS[component][1](state))


@CASES
def test_bfl_becomes_a_folder_that_diffusers_opens(component: str, tmp_path: Path) -> None:
    source, _ = _bfl_file(component, tmp_path)
    made = _converted(source, tmp_path / "out", "diffusers")
    _, state = _saved(component, tmp_path / "expected")
    _assert_equal(made, state)
    kind = {
        "transformer": diffusers.Flux2Transformer2DModel,
        "autoencoder": diffusers.AutoencoderKLFlux2,
    }[component]
    opened = kind.from_pretrained(tmp_path / "out", torch_dtype=torch.bfloat16)
    _assert_equal(opened.state_dict(), state)
    theirs = json.loads((tmp_path / "expected" / "config.json").read_text())
    mine = json.loads((tmp_path / "out" / "config.json").read_text())
    assert {name: theirs[name] for name in mine} == mine


@CASES
def test_there_and_back_is_the_same(component: str, tmp_path: Path) -> None:
    source, tensors = _bfl_file(component, tmp_path)
    _converted(source, tmp_path / "folder", "diffusers")
    _assert_equal(_converted(tmp_path / "folder", tmp_path / "back.safetensors", "bfl"), tensors)


def test_shards_prefixes_and_the_small_decoder_are_converted(tmp_path: Path) -> None:
    model = tiny.transformer().bfloat16()
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    expected = split_files.transformer_as_bfl(model.state_dict())
    _assert_equal(_converted(tmp_path / "shards", tmp_path / "a.safetensors", "bfl"), expected)
    prefixed = {f"model.diffusion_model.{n}": t.contiguous() for n, t in expected.items()}
    save_file(prefixed, tmp_path / "prefixed.safetensors")
    made = _converted(tmp_path / "prefixed.safetensors", tmp_path / "out", "diffusers")
    _assert_equal(made, model.state_dict())
    small = tiny.autoencoder((32, 32, 32, 64))
    save_file(
        {n: t.clone() for n, t in split_files.autoencoder_as_bfl(small.state_dict()).items()},
        tmp_path / "small.safetensors",
    )
    _converted(tmp_path / "small.safetensors", tmp_path / "small", "diffusers")
    opened = diffusers.AutoencoderKLFlux2.from_pretrained(tmp_path / "small")
    _assert_equal(opened.state_dict(), small.state_dict())


def test_a_tensor_larger_than_a_slice_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "_SLICE_NUMBERS", 1000)
    source, state = _saved("transformer", tmp_path / "in")
    made = _converted(source, tmp_path / "out.safetensors", "bfl")
    _assert_equal(made, split_files.transformer_as_bfl(state))


# FP8


def _fp8(tmp_path: Path) -> tuple[Path, dict[str, Tensor], dict[str, Tensor]]:
    """The file, its tensors, and the bfloat16 tensors it was made from."""
    source, tensors = _bfl_file("transformer", tmp_path)
    return (
        tmp_path / "fp8.safetensors",
        _converted(source, tmp_path / "fp8.safetensors", "bfl-fp8"),
        tensors,
    )


def _is_quantised(name: str) -> bool:
    """klein-facts B.2: these linears of each block, and nothing else."""
    linears = ("attn.qkv", "attn.proj", "mlp.0", "mlp.2", "linear1", "linear2")
    return "_blocks." in name and name.endswith(tuple(f"{stem}.weight" for stem in linears))


def test_fp8_has_the_published_names_dtypes_and_shapes(tmp_path: Path) -> None:
    file, made, source = _fp8(tmp_path)
    quantised = {name for name in source if _is_quantised(name)}
    assert len(quantised) == 2 * 8 + 3 * 2
    assert made.keys() == source.keys() | {f"{name}_scale" for name in quantised}
    for name, tensor in source.items():
        expected = torch.float8_e4m3fn if name in quantised else torch.bfloat16
        assert made[name].dtype == expected and made[name].shape == tensor.shape
        if name not in quantised:
            assert torch.equal(made[name], tensor)
    for name in quantised:
        scale = made[f"{name}_scale"]
        assert scale.dtype == torch.float32 and scale.shape == ()
    with safe_open(file, "pt") as opened:
        stated = json.loads(opened.metadata()["_quantization_metadata"])
    assert stated == {
        "format_version": "1.0",
        "layers": {n.removesuffix(".weight"): {"format": "float8_e4m3fn"} for n in quantised},
    }


def test_fp8_is_read_back_by_the_published_formula(tmp_path: Path) -> None:
    """w = q.to(float32) * weight_scale; e4m3 has 3 bits, so half a step is 1/16 of the value."""
    _, made, source = _fp8(tmp_path)
    for name in filter(_is_quantised, source):
        weights, scale = source[name].float(), made[f"{name}_scale"]
        assert scale == weights.abs().max() / 448
        back = made[name].to(torch.float32) * scale
        # below 2^-6 the numbers of e4m3 are 2^-9 apart
        allowed = torch.maximum(weights.abs() / 16, scale * 2.0**-10)
        assert ((back - weights).abs() <= allowed * 1.001).all(), name
        assert back.abs().max() == pytest.approx(weights.abs().max().item(), rel=1e-6)


def test_fp8_from_a_folder_has_one_scale_for_the_fused_weight(tmp_path: Path) -> None:
    folder, _ = _saved("transformer", tmp_path / "in")
    _, expected, _ = _fp8(tmp_path)
    made = _converted(folder, tmp_path / "out.safetensors", "bfl-fp8")
    assert made.keys() == expected.keys()
    for name, tensor in made.items():
        assert torch.equal(tensor.float(), expected[name].float()), name


def test_fp8_of_float32_keeps_the_rest_in_bfloat16(tmp_path: Path) -> None:
    tiny.transformer().save_pretrained(tmp_path / "in")
    made = _converted(tmp_path / "in", tmp_path / "out.safetensors", "bfl-fp8")
    assert {tensor.dtype for name, tensor in made.items() if not name.endswith("_scale")} == {
        torch.float8_e4m3fn,
        torch.bfloat16,
    } and made["img_in.weight"].dtype == torch.bfloat16


def test_a_weight_of_zeros_has_scale_one_and_nan_is_refused(tmp_path: Path) -> None:
    source, tensors = _bfl_file("transformer", tmp_path)
    name = "single_blocks.0.linear1.weight"
    save_file(tensors | {name: torch.zeros_like(tensors[name])}, source)
    made = _converted(source, tmp_path / "zeros.safetensors", "bfl-fp8")
    assert made[f"{name}_scale"] == 1 and made[name].float().abs().max() == 0
    for value in (math.nan, math.inf):
        broken = tensors[name].clone()
        broken[3, 5] = value
        save_file(tensors | {name: broken}, source)
        result = _convert(source, tmp_path / "nan.safetensors", "bfl-fp8")
        assert result.exit_code == 2 and f"{name} holds values that are no finite" in result.stderr
        assert not (tmp_path / "nan.safetensors").exists()


def _filled(file: Path) -> torch.nn.Module:
    return build.open_transformer(file).filled(torch.device("cpu"), torch.float32)


def test_fp8_computes_nearly_the_same(tmp_path: Path) -> None:
    """Each weight is off by 2.5 % at most on average; the velocity of random weights by 2.7 %."""
    file, _, _ = _fp8(tmp_path)
    torch.manual_seed(1)
    image, text = torch.randn(1, 16, 128), torch.randn(1, 8, 96)
    ids = torch.arange(24 * 4).reshape(24, 4) % 5
    inputs = (image, torch.tensor([0.7]), text, ids[:16], ids[16:])
    with torch.inference_mode():
        expected = _filled(tmp_path / "bfl.safetensors")(*inputs)
        error = (_filled(file)(*inputs) - expected).norm() / expected.norm()
    assert 0.0001 < error < 0.05


def test_the_files_own_inspection_knows_it(tmp_path: Path) -> None:
    file, _, _ = _fp8(tmp_path)
    result = CliRunner().invoke(app, ["inspect", str(file), "--json"])
    groups = json.loads(result.stdout)["components"][0]["groups"]
    formats = {group["layers"]: group["formats"] for group in groups}
    assert formats["double blocks"] == {"FP8 e4m3, scaled": 16}
    assert formats["modulation"] == {"BF16": 3}


# What is refused, and what is left alone


def _assert_refused(result: Result, message: str) -> None:
    assert result.exit_code == 2 and result.stderr.count("\n") == 1, result.output
    assert message in result.stderr


def _sparse_gguf(folder: Path) -> Path:
    shapes = {name: shape for name, (_, shape, _) in klein().items()}
    return write_sparse_gguf(folder / "x.gguf", shapes, "flux")


def _sparse(tensors: Entries) -> Callable[[Path], Path]:
    return lambda folder: write_sparse(folder / "x.safetensors", tensors)


FLUX_1 = {"double_blocks.0.img_mod.lin.weight": entry("BF16", 8)}


@pytest.mark.parametrize(
    ("make", "target", "message"),
    [
        (_sparse(as_fp8(klein())), "diffusers", "holds FP8 e4m3, scaled; only 16- and 32-bit"),
        (_sparse_gguf, "diffusers", "holds Q8_0; only 16- and 32-bit"),
        (_sparse(klein(6144, 8, 48)), "diffusers", "seems to be FLUX.2 dev transformer; only"),
        (_sparse(FLUX_1), "diffusers", "seems to be FLUX.1 transformer; only klein's"),
        (lambda p: tiny.saved(p / "m"), "bfl", "is a whole model; give its transformer or vae"),
        (lambda p: tiny.saved(p / "m") / "text_encoder", "bfl", "Qwen3 text encoder; only"),
        (lambda p: _bfl_file("transformer", p)[0], "bfl", "is in the BFL layout already"),
        (lambda p: _saved("autoencoder", p)[0], "diffusers", "is in the diffusers layout already"),
        (lambda p: _saved("autoencoder", p)[0], "bfl-fp8", "is for transformers"),
        (lambda p: p / "absent", "bfl", "does not exist"),
    ],
)
def test_sources_that_cannot_be_converted_are_named(
    make: Callable[[Path], Path], target: str, message: str, tmp_path: Path
) -> None:
    source = make(tmp_path)
    _assert_refused(_convert(source, tmp_path / "out.safetensors", target), message)
    assert not (tmp_path / "out.safetensors").exists()


def test_an_incomplete_source_is_refused(tmp_path: Path) -> None:
    source, tensors = _bfl_file("transformer", tmp_path)
    del tensors["single_blocks.1.linear2.weight"]
    save_file(tensors, source)
    _assert_refused(
        _convert(source, tmp_path / "out", "diffusers"), "lacks tensor single_blocks.1.linear2"
    )
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_without_force(tmp_path: Path) -> None:
    source, _ = _saved("transformer", tmp_path / "in")
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"mine")
    _assert_refused(_convert(source, out, "bfl"), "exists; choose another or give --force")
    assert out.read_bytes() == b"mine"
    assert _convert(source, out, "bfl", "--force").exit_code == 0
    assert read_header(out).tensors


def test_the_source_is_never_overwritten(tmp_path: Path) -> None:
    source, _ = _bfl_file("transformer", tmp_path)
    before = source.read_bytes()
    (tmp_path / "link.safetensors").symlink_to(source)
    for name in ("bfl.safetensors", "link.safetensors"):
        result = _convert(source, tmp_path / name, "bfl-fp8", "--force")
        _assert_refused(result, "is the source")
    assert source.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("out.bin", "bfl", "must end in .safetensors"),
        ("full", "diffusers", "holds model.safetensors.index.json; choose another"),
        ("file", "diffusers", "is a file; give a folder"),
        ("file/x.safetensors", "bfl", "cannot write"),
    ],
)
def test_destinations_that_cannot_be_are_refused(
    name: str, target: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors.index.json").write_text("{}")
    (tmp_path / "file").write_bytes(b"")
    source = (
        _bfl_file("transformer", tmp_path)[0]
        if target == "diffusers"
        else _saved("transformer", tmp_path / "in")[0]
    )
    _assert_refused(_convert(source, tmp_path / name, target), message)


def test_a_run_that_breaks_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = _bfl_file("transformer", tmp_path)

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(converting, "_stored", stop)
    for target, out in (("diffusers", "folder/deep"), ("bfl-fp8", "file.safetensors")):
        assert _convert(source, tmp_path / out, target).exit_code == 130
        assert not (tmp_path / out).exists()
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [source.name]


def test_too_little_room_is_said_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    source, _ = _bfl_file("transformer", tmp_path)
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    _assert_refused(_convert(source, tmp_path / "out", "diffusers"), "GB free")


_MEASURE = """
import re, sys
from pathlib import Path
from kleinod.weights.convert import convert
def private():
    return int(re.findall(r"RssAnon:\\s+(\\d+)", Path("/proc/self/status").read_text())[0]) / 1024
source, out = Path(sys.argv[1]), Path(sys.argv[2])
start, most = private(), []
convert(source, out, target=sys.argv[3], progress=lambda fraction: most.append(private()))
print(max(most) - start)
"""


@pytest.mark.slow
@pytest.mark.parametrize("target", ["diffusers", "bfl-fp8"])
@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the private memory")
def test_little_memory_is_held(target: str, tmp_path: Path) -> None:
    """Of a file of 240 MB: its tensors are mapped and written in slices of 2 MB."""
    source = write_sparse(tmp_path / "in.safetensors", klein(1024, 2, 5, 3072))
    assert source.stat().st_size > 230_000_000
    out = tmp_path / ("out" if target == "diffusers" else "out.safetensors")
    output = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(source), str(out), target],
        check=True,
        capture_output=True,
        text=True,
    )
    assert float(output.stdout) < 80


def test_our_own_loader_reads_the_bfl_file(tmp_path: Path) -> None:
    source, _ = _saved("transformer", tmp_path / "in")
    _converted(source, tmp_path / "out.safetensors", "bfl")
    mine = build.open_transformer(tmp_path / "out.safetensors")
    theirs = build.open_transformer(source)
    _assert_equal(
        {name: torch.cat(parts) for name, parts in mine.parts.items()},
        {name: torch.cat(parts) for name, parts in theirs.parts.items()},
    )
