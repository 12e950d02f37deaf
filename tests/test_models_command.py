"""`kleinod models`: sizes, memory and fit of every known model, files by name, a vocabulary."""

import json
import re
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner, Result

from kleinod import catalog, hub
from kleinod.cli import app, pull
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError
from kleinod.request import Components
from kleinod.runtime import hardware
from kleinod.runtime.hardware import Memory
from kleinod.weights import requirements
from kleinod.weights.folders import model_paths

QUANTISED = (
    "klein-4b-fp8",
    "klein-9b-fp8",
    "klein-base-9b-fp8",
    "klein-9b-kv-fp8",
    "klein-9b-nvfp4",
    "klein-base-9b-nvfp4",
)


@pytest.fixture(autouse=True)
def empty_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KLEINOD_MODELS", str(tmp_path / "models"))


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _rows() -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in json.loads(_run("models", "--json").stdout)}


def test_the_list_has_size_memory_and_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kleinod.cli.models.device_memory", lambda: Memory("RTX 4090", 24 * 10**9))
    rows = _rows()
    assert rows["klein-4b"]["bytes"] == 15_964_089_152  # 7.75 + 8.05 + 0.17 GB
    assert rows["klein-4b"]["fits"] == "none" and rows["klein-9b"]["fits"] == "model"
    assert rows["klein-4b-fp8"]["file"] == "flux-2-klein-4b-fp8.safetensors"
    lines = _run("models").stdout.splitlines()
    line = next(line for line in lines if line.startswith("klein-9b "))
    assert "34.7 GB" in line and "one at a time" in line
    assert "compared with RTX 4090 of 24.0 GB" in _run("models").stderr


@pytest.mark.parametrize(
    ("num_bytes", "fits"),
    [(10**9, "no"), (10 * 10**9, "one at a time"), (80 * 10**9, "yes"), (None, "unknown")],
)
def test_one_model_says_whether_it_fits(
    monkeypatch: pytest.MonkeyPatch, num_bytes: int | None, fits: str
) -> None:
    monkeypatch.setattr("kleinod.cli.models.device_memory", lambda: Memory("RAM", num_bytes))
    lines = _run("models", "klein-4b").stdout.splitlines()
    assert any(line.startswith(f"fits        {fits} (RAM, ") for line in lines)
    assert "where       not here; run `kleinod pull klein-4b`" in lines


@pytest.mark.parametrize("name", QUANTISED)
def test_a_quantised_file_is_known_by_name(name: str) -> None:
    row = json.loads(_run("models", name, "--json").stdout)
    assert row["format"] == name.rpartition("-")[2]
    assert row["get"] == f"kleinod pull {name}"
    assert row["bytes"] < row["memory_bytes"]["none"] < 30e9
    result = _run("generate", "a fox", "--model", name)
    assert result.exit_code == 2
    assert row["repository"] in result.stderr and row["file"] in result.stderr
    assert hub.repository_of(name) == row["repository"]


def test_memory_of_a_published_model_is_the_inspections_estimate() -> None:
    known = catalog.KNOWN["klein-9b"]
    # held bytes, and the decoder's activations: 11 pictures of 1024 x 1024 and 128 channels
    held = 18_157_162_496 + 11_665_000_000 + 168_000_000
    assert requirements.published_memory(known) == {
        "none": held + 11 * 1024**2 * 128 * 2,
        "model": 18_157_162_496 + 4608 * 4096 * 2 * 40,
    }


def test_the_built_in_model_lists_what_it_knows() -> None:
    result = _run("models", "mini")
    assert result.exit_code == 0
    for text in ("121 objects", "tropical fish", "sky blue", "flat design", "128x128"):
        assert text in result.stdout
    assert "  change the background to BACKGROUND" in result.stdout.splitlines()
    assert '  kleinod generate "a fox on a blue background"' in result.stdout.splitlines()
    known = json.loads(_run("models", "mini", "--json").stdout)["vocabulary"]
    assert {"name": "wolf", "plural": "wolves"} in known["objects"]


def test_a_path_is_told_as_a_name_is(tiny_model: Path) -> None:
    row = json.loads(_run("models", str(tiny_model), "--json").stdout)
    assert row["path"] == str(tiny_model) and row["vocabulary"] is None
    assert row["bytes"] > 0 and row["fits"] == "none"


@pytest.mark.parametrize("name", ["klein-5b", "absent/folder/", ""])
def test_an_unknown_model_is_refused(name: str) -> None:
    result = _run("models", name)
    assert result.exit_code == 2 and result.stderr.startswith("error: model: ")


@pytest.mark.parametrize("part", ["empty", "transformer", "vae", "tokenizer", "text_encoder"])
def test_a_folder_that_is_no_model_gets_no_facts(
    tiny_model: Path, tmp_path: Path, part: str
) -> None:
    folder = tiny_model / part
    if part == "empty":
        folder = tmp_path
    result = _run("models", str(folder))
    assert result.exit_code == 2 and result.stdout == ""
    assert re.match(r"error: model: .* holds no model_index\.json; ", result.stderr)
    assert ("it is a part of" in result.stderr) == (part != "empty")


def test_a_file_of_another_kind_gets_no_facts(tiny_model: Path) -> None:
    file = next((tiny_model / "vae").glob("*.safetensors"))
    result = _run("models", str(file))
    assert result.exit_code == 2 and "is no klein model but" in result.stderr


def _quantised_here(tiny_model: Path, root: Path) -> Path:
    """The tiny model's transformer as klein-4b-fp8's file."""
    shards = sorted((tiny_model / "transformer").glob("*.safetensors"))
    tensors = {name: tensor for shard in shards for name, tensor in load_file(shard).items()}
    folder = root / "klein-4b-fp8"
    folder.mkdir(parents=True)
    file = folder / "flux-2-klein-4b-fp8.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file)
    return file


def test_a_transformer_alone_takes_the_parts_of_the_whole_model(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = _quantised_here(tiny_model, tmp_path / "models")
    assert catalog.find("klein-4b-fp8") == file
    with pytest.raises(InputError, match="run `kleinod pull klein-4b-fp8` for its text encoder"):
        model_paths(file, Components())
    for name in catalog.SHARED_FOLDERS:
        shutil.copytree(tiny_model / name, tmp_path / "models" / "klein-4b" / name)
    paths = model_paths(file, Components())
    assert paths.transformer == file
    assert paths.autoencoder == tmp_path / "models" / "klein-4b" / "vae"
    assert paths.tokenizer.parent.name == "tokenizer"
    given = model_paths(file, Components(autoencoder=tiny_model / "vae"))
    assert given.autoencoder == tiny_model / "vae"


def test_a_name_loads_a_transformer_alone(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _quantised_here(tiny_model, tmp_path / "models")
    for name in catalog.SHARED_FOLDERS:
        shutil.copytree(tiny_model / name, tmp_path / "models" / "klein-4b" / name)
    own = catalog.describe(tiny_model, tiny_model)
    monkeypatch.setattr(catalog, "describe", lambda name, path, **_: own)  # the tiny text layers
    sampler = load_sampler("klein-4b-fp8", device="cpu")
    assert sampler.generate("a fox", seed=1, num_inference_steps=1).images[0].image.size == (96, 96)


def test_a_pull_of_a_transformer_alone_fetches_its_other_parts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[object, ...]] = []

    def listing(name: str, files: tuple[str, ...] = (), *, folders: tuple[str, ...] = ()) -> str:
        asked.append((name.removeprefix("black-forest-labs/FLUX.2-"), folders))
        return name

    monkeypatch.setattr(hub, "listing", listing)
    pull._listings("klein-9b-nvfp4", ())
    pull._listings("klein-4b-fp8", ("README.md",))
    pull._listings("klein-4b", ())
    assert asked == [
        ("klein-9b-nvfp4", ()),
        ("klein-9B", catalog.SHARED_FOLDERS),
        ("klein-4b-fp8", ()),
        ("klein-4B", ()),
    ]


def test_a_containers_limit_counts_as_the_machines_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(hardware, "_CGROUP_LIMITS", (limit,))
    whole = hardware._machine_bytes()
    for text, expected in (("max\n", whole), ("1000000\n", 1_000_000), ("", whole)):
        limit.write_text(text)
        assert hardware._machine_bytes() == expected
