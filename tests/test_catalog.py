"""Names are found in the package, in $KLEINOD_MODELS and in the hub's cache, without a network."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kleinod import catalog
from kleinod.errors import InputError, WeightsError

REPOSITORY = "models--black-forest-labs--FLUX.2-klein-4B"


@pytest.fixture(autouse=True)
def empty_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.delenv("KLEINOD_MODELS", raising=False)


def _model(folder: Path, **index: object) -> Path:
    folder.mkdir(parents=True)
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def test_the_hubs_cache_is_searched_with_main_first(tmp_path: Path) -> None:
    for revision in ("aaa", "bbb"):
        _model(tmp_path / "hub" / REPOSITORY / "snapshots" / revision)
    assert catalog.find("klein-4b").name == "aaa"
    (tmp_path / "hub" / REPOSITORY / "refs").mkdir()
    (tmp_path / "hub" / REPOSITORY / "refs/main").write_text("bbb\n")
    assert catalog.find("klein-4b").name == "bbb"


def test_own_folder_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _model(tmp_path / "hub" / REPOSITORY / "snapshots" / "aaa")
    own = _model(tmp_path / "models" / "klein-4b")
    monkeypatch.setenv("KLEINOD_MODELS", str(tmp_path / "models"))
    assert catalog.find("klein-4b") == own


def test_an_absent_model_says_what_to_fetch() -> None:
    with pytest.raises(InputError, match=r"black-forest-labs/FLUX\.2-klein-base-9B"):
        catalog.find("klein-base-9b")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InputError, match="mini, klein-4b, klein-base-4b, klein-9b"):
        catalog.find("klein-5b")


@pytest.mark.parametrize(
    ("name", "is_distilled", "steps", "guidance", "license"),
    [
        ("klein-4b", True, 4, 1.0, catalog.APACHE),
        ("klein-base-4b", False, 50, 4.0, catalog.APACHE),
        ("klein-9b-kv", True, 4, 1.0, catalog.NON_COMMERCIAL),
    ],
)
def test_a_known_name_tells_the_facts(
    tmp_path: Path, name: str, is_distilled: bool, steps: int, guidance: float, license: str
) -> None:
    info = catalog.describe(name, _model(tmp_path / "m"))
    assert (info.name, info.is_distilled, info.license) == (name, is_distilled, license)
    assert (info.num_inference_steps, info.guidance_scale) == (steps, guidance)
    assert (info.default_size, info.text_layers, info.max_text_tokens) == (1024, (9, 18, 27), 512)


@pytest.mark.parametrize(("index", "expected"), [({"is_distilled": True}, True), ({}, False)])
def test_a_folder_tells_its_variant(
    tmp_path: Path, index: dict[str, object], expected: bool
) -> None:
    folder = _model(tmp_path / "m", **index)
    assert catalog.describe(folder, folder).is_distilled is expected


def test_kleinod_json_wins(tmp_path: Path) -> None:
    folder = _model(tmp_path / "m", is_distilled=True)
    own = {
        "name": "small",
        "text_layers": [2, 4, 6],
        "max_text_tokens": 32,
        "default_size": 128,
        "license": "CC0-1.0",
    }
    (folder / "kleinod.json").write_text(json.dumps(own))
    info = catalog.describe(folder, folder)
    assert (info.name, info.text_layers, info.max_text_tokens) == ("small", (2, 4, 6), 32)
    assert (info.default_size, info.license) == (128, "CC0-1.0")


@pytest.mark.parametrize(
    "values",
    [{"default_size": "128"}, {"text_layers": []}, {"guidance_scale": "x"}, {"default_size": 100}],
)
def test_a_bad_kleinod_json_is_refused(tmp_path: Path, values: dict[str, object]) -> None:
    folder = _model(tmp_path / "m", is_distilled=True)
    (folder / "kleinod.json").write_text(json.dumps(values))
    with pytest.raises(WeightsError, match=next(iter(values))):
        catalog.describe(folder, folder)


def test_the_catalog_needs_no_torch() -> None:
    code = (
        "import sys, kleinod, kleinod.catalog, kleinod.request; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
