"""`kleinod inspect`: variant and evidence, folders, memory, the line that uses it, both reports."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import published
import pytest
import tiny
import torch
import transformers
import typer
from header_files import write_sparse
from published import KLEIN_9B, as_fp8, klein, of_module
from typer.main import get_command
from typer.testing import CliRunner, Result

from kleinod import catalog
from kleinod.cli import app
from kleinod.errors import InputError
from kleinod.weights import requirements
from kleinod.weights.inspect_model import inspected
from kleinod.weights.layer_formats import is_auxiliary

FILE = "flux-2-klein-4b.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("klein") / "model")


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder that may be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def _inspect(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["inspect", *map(str, arguments)])


def _report(path: object) -> dict[str, Any]:
    result = _inspect(path, "--json")
    assert result.exit_code == 0, result.output
    assert result.stdout.count("\n") == 1
    return json.loads(result.stdout)


# Variants


@pytest.mark.parametrize(
    ("name", "variant", "evidence"),
    [
        (FILE, "distilled", "the file's name"),
        ("flux-2-klein-base-9b-fp8.safetensors", "base", "the file's name"),
        ("flux-2-klein-9b-kv-fp8.safetensors", "kv", "the file's name"),
        ("my-database.safetensors", None, "cannot be told from the tensors"),
        ("models--black-forest-labs--FLUX.2-klein-base-4B/snapshots/a/x.safetensors", "base",
         "the repository's name, FLUX.2-klein-base-4B"),
    ],
)  # fmt: skip
def test_variant_comes_from_names(
    name: str, variant: str | None, evidence: str, tmp_path: Path
) -> None:
    found = inspected(write_sparse(tmp_path / name, klein(**KLEIN_9B))).variant
    assert found is not None and found.name == variant and evidence in found.evidence


def test_variant_comes_from_the_files_own_title(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "x.safetensors", klein(), {"modelspec.title": "Klein Base 4B"})
    found = inspected(path).variant
    assert found is not None and found.name == "base"
    assert found.evidence == "its own title, Klein Base 4B"


def test_variant_of_a_folder_comes_from_its_index(copy: Path) -> None:
    index = copy / "model_index.json"
    values = json.loads(index.read_text())
    for change, variant, evidence in (
        ({"is_distilled": True}, "distilled", "is_distilled true"),
        ({"is_distilled": False}, "base", "is_distilled false"),
        ({"is_distilled": None, "_class_name": "Flux2KleinKVPipeline"}, "kv", "names the KV"),
    ):
        index.write_text(json.dumps(values | change))
        found = inspected(copy).variant
        assert found is not None and found.name == variant and evidence in found.evidence
    del values["is_distilled"]
    index.write_text(json.dumps(values))
    found = inspected(copy).variant
    assert found is not None and found.name == "base" and "has no is_distilled" in found.evidence


# Folders


def test_a_folder_of_diffusers_is_reported(folder: Path) -> None:
    report = _report(folder)
    assert report["what"] == "FLUX.2 klein (a whole model)"
    parts = {part["component"]: part for part in report["components"]}
    assert parts.keys() == {"transformer", "text_encoder", "autoencoder", "tokenizer"}
    assert report["missing"] == [] and report["variant"] == "distilled"
    assert parts["transformer"]["layout"] == "diffusers"
    expected = sum(parameter.numel() for parameter in tiny.transformer().parameters())
    assert parts["transformer"]["parameters"] == expected
    assert parts["tokenizer"]["numbers"] == {"tokens": 256 + len(tiny.SPECIAL_TOKENS)}
    assert report["command"] == f'kleinod generate "a fox" --model {folder}'


def test_missing_components_are_listed_and_asked_for(copy: Path) -> None:
    for name in ("text_encoder", "vae"):
        shutil.rmtree(copy / name)
    report = _report(copy)
    assert report["missing"] == ["text_encoder", "vae"]
    assert report["command"].endswith("--text-encoder TEXT_ENCODER --autoencoder VAE")


def test_parts_that_do_not_fit_are_noted(copy: Path) -> None:
    shutil.rmtree(copy / "transformer")
    tiny.transformer(context=60).save_pretrained(copy / "transformer")
    notes = _report(copy)["notes"]
    assert "does not fit: the text encoder gives 96 numbers per token, not 60" in notes


def test_shards_are_one_component(copy: Path) -> None:
    path = copy / "transformer"
    model = diffusers.Flux2Transformer2DModel.from_pretrained(path)
    shutil.rmtree(path)
    model.save_pretrained(path, max_shard_size="200KB")
    component = _report(path)["components"][0]
    assert _report(path)["command"] == f'kleinod generate "a fox" --model {copy}'
    assert "shards" in component["container"] and component["tensors"] == len(model.state_dict())
    next(path.glob("*-00002-*")).unlink()
    result = _inspect(path)
    assert result.exit_code == 2 and "is missing; fetch" in result.stderr


def test_a_pipeline_of_another_family_is_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusionXLPipeline"}')
    report = _report(tmp_path)
    assert report["what"] == "StableDiffusionXLPipeline folder" and report["command"] is None
    assert report["notes"] == ["StableDiffusionXLPipeline is no klein model; it is not run here"]


def test_a_tokenizer_is_reported(folder: Path) -> None:
    for path in (folder / "tokenizer", folder / "tokenizer" / "tokenizer.json"):
        assert _report(path)["what"] == "Qwen tokenizer"


def test_a_known_name_is_looked_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "present", lambda known: folder)
    report = _report("klein-base-4b")
    assert (report["variant"], report["license"]) == ("base", catalog.APACHE)
    assert report["command"] == 'kleinod generate "a fox" --model klein-base-4b'


# Memory and licence


def _encoder(hidden: int, intermediate: int) -> published.Entries:
    config = transformers.Qwen3Config(
        vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        tie_word_embeddings=False,
    )  # fmt: skip
    with torch.device("meta"):
        return of_module(transformers.Qwen3ForCausalLM(config))


def _read_bytes(entries: published.Entries) -> int:
    """What klein reads of a text encoder: the table and the layers up to 26."""
    unread = ("lm_head", "model.norm", *(f"model.layers.{n}." for n in range(27, 36)))
    return sum(size for name, (_, _, size) in entries.items() if not name.startswith(unread))


@pytest.mark.parametrize(
    ("size", "sizes"), [("4B", (2560, 9728)), ("8B", (4096, 12288))], ids=["4B", "8B"]
)
def test_the_published_encoders_bytes_are_theirs(size: str, sizes: tuple[int, int]) -> None:
    assert requirements._ENCODERS[size][0] == pytest.approx(_read_bytes(_encoder(*sizes)), rel=1e-3)


def test_memory_is_the_formulas(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / FILE, as_fp8(klein()))
    encoder = _encoder(2560, 9728)
    write_sparse(tmp_path / "qwen_3_4b.safetensors", encoder)
    memory = requirements.memory(inspected(path))
    transformer = 4_070_588_032, (4096 + 512) * 3072 * 2 * 40
    text = _read_bytes(encoder), 512 * 2560 * 2 * 40
    decoder = 168_000_000, 1024**2 * 128 * 2 * 11
    assert memory is not None
    assert memory["model"] == max(map(sum, (transformer, text, decoder)))
    whole = transformer[0] + text[0] + decoder[0] + max(transformer[1], text[1], decoder[1])
    assert memory["none"] == pytest.approx(whole, rel=1e-3)


def test_memory_of_a_folder_counts_what_is_read(folder: Path) -> None:
    inspection = inspected(folder)
    text = inspection.part("text_encoder")
    assert text is not None and inspection.info is not None
    model = tiny.text_encoder()
    unread = ("lm_head", "model.norm", *(f"model.layers.{n}." for n in range(27, 29)))
    read = {n: t.numel() for n, t in model.state_dict().items() if not n.startswith(unread)}
    # stored in float32, held in bfloat16
    assert requirements.held_bytes(text, inspection.info) == 2 * sum(read.values())


@pytest.mark.parametrize(
    ("tensors", "license"),
    [
        (klein(), catalog.APACHE),
        (klein(**KLEIN_9B), catalog.NON_COMMERCIAL),
        (klein(3072, 6, 20), catalog.UNKNOWN_LICENSE),
        (klein(6144, 8, 48, 15360), requirements.DEV_LICENSE),
    ],
)
def test_licence_follows_from_the_size(
    tensors: published.Entries, license: str, tmp_path: Path
) -> None:
    assert _report(write_sparse(tmp_path / "x.safetensors", tensors))["license"] == license


# The line that uses it


def _assert_parses(line: str) -> None:
    words = shlex.split(line)
    assert words[:2] == ["kleinod", "generate"]
    group = get_command(app)
    group.commands["generate"].make_context("generate", words[2:], parent=typer.Context(group))


def test_fitting_neighbours_are_named(tmp_path: Path) -> None:
    """As ComfyUI keeps its files: a folder for each kind, of several models."""
    path = write_sparse(tmp_path / "diffusion_models" / "a klein.safetensors", klein())
    texts = tmp_path / "text_encoders"
    write_sparse(texts / "a_qwen_8b.safetensors", _encoder(4096, 12288))
    encoder = write_sparse(texts / "qwen_4b.safetensors", _encoder(2560, 9728))
    (texts / "broken.safetensors").write_bytes(b"nothing")
    with torch.device("meta"):
        vae = of_module(diffusers.AutoencoderKLFlux2())
    autoencoder = write_sparse(tmp_path / "vae" / "flux2-vae.safetensors", vae)
    line = _report(path)["command"]
    assert line == (
        f'kleinod generate "a fox" --model {shlex.quote(str(path))} '
        f"--text-encoder {encoder} --autoencoder {autoencoder}"
    )
    _assert_parses(line)
    assert _report(encoder)["command"] == line
    assert _report(autoencoder)["command"].startswith('kleinod generate "a fox" --model')


def test_what_is_missing_stands_in_capitals(tmp_path: Path) -> None:
    line = _report(write_sparse(tmp_path / FILE, klein()))["command"]
    assert line.endswith("TEXT_ENCODER.safetensors --autoencoder AUTOENCODER.safetensors")
    _assert_parses(line)


def test_nothing_uses_what_is_not_klein(tmp_path: Path) -> None:
    report = _report(write_sparse(tmp_path / "x.safetensors", klein(6144, 8, 48, 15360)))
    assert report["command"] is None and report["memory_bytes"] is None


# The command


def test_the_readable_report(tmp_path: Path) -> None:
    path = write_sparse(
        tmp_path / "[bold]klein-4b.safetensors", as_fp8(klein(), num_without_scale=1)
    )
    result = _inspect(path)
    assert result.exit_code == 0, result.output
    for text in (
        "FLUX.2 klein 4B transformer\n",
        str(path),
        "distilled (the file's name",
        "Apache-2.0",
        "3,875,544,576",
        "FP8 e4m3, scaled",
        "note: 1 FP8 weights have no scale, 79 others have one",
        "model 6.",
        "kleinod generate",
    ):
        assert text in result.stdout


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04" + bytes(80), b"GGUF" + bytes(80)])
def test_a_broken_file_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").write_bytes(content)
    result = _inspect(tmp_path / "a.safetensors")
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_a_folder_of_nothing_or_of_many_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no model_index\.json and no weights"):
        inspected(tmp_path)
    for name in "ab":
        write_sparse(tmp_path / f"{name}.safetensors", klein())
    with pytest.raises(InputError, match=r"holds 2 weight files; give one of them \(a\.safe"):
        inspected(tmp_path)


def test_scales_of_norms_are_no_auxiliary_tensors() -> None:
    assert not is_auxiliary("double_blocks.0.img_attn.norm.query_norm.scale")
    assert is_auxiliary("double_blocks.0.img_attn.qkv.input_scale")


def test_it_is_quick_since_it_imports_little_and_reads_headers_only(tmp_path: Path) -> None:
    """At real size, with a neighbour: 26 GB, of which the headers are 0.1 MB.

    That is what makes it take half a second; the time itself depends on the machine.
    """
    path = write_sparse(tmp_path / "flux-2-klein-9b.safetensors", as_fp8(klein(**KLEIN_9B)))
    write_sparse(tmp_path / "qwen_3_8b.safetensors", _encoder(4096, 12288))
    code = (
        "import resource, sys\n"
        "from kleinod.cli import app\n"
        "from typer.testing import CliRunner\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        f"result = CliRunner().invoke(app, ['inspect', {str(path)!r}])\n"
        "assert result.exit_code == 0, result.output\n"
        "heavy = {'torch', 'numpy', 'scipy', 'safetensors', 'transformers', 'tokenizers'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    )
    unit = 1 if sys.platform == "darwin" else 1024
    assert int(output.stdout) * unit < 64e6
