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


def _downloaded(hub: Path, repository: str, *files: str) -> Path:
    """A repository in the Hub's cache with empty files."""
    snapshot = hub / ("models--" + repository.replace("/", "--")) / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for name in files:
        (snapshot / name).write_bytes(b"{}")
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hub cache."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize(
    "name", ["black-forest-labs/FLUX.2-klein-4B", "Black-Forest-Labs/flux.2-klein-4b", "klein-4b"]
)
def test_known_model_is_found_by_its_repository_id(hub: Path, name: str) -> None:
    folder = _downloaded(hub, "black-forest-labs/FLUX.2-klein-4B", "model_index.json")
    assert catalog.find(name) == folder
    assert catalog.describe(name, folder).name == "klein-4b"
    assert catalog.describe(name, folder).license == catalog.APACHE


def test_any_downloaded_repository_is_found_by_its_id(hub: Path) -> None:
    folder = _downloaded(hub, "anna/my-klein", "model_index.json")
    assert catalog.find("anna/my-klein") == folder
    file = _downloaded(hub, "anna/one-file", "klein.gguf", "README.md") / "klein.gguf"
    assert catalog.find("anna/one-file") == file
    _downloaded(hub, "anna/two-files", "a.gguf", "b.safetensors")
    with pytest.raises(InputError, match=r"anna/two-files holds several models \(a.gguf, b"):
        catalog.find("anna/two-files")
    with pytest.raises(InputError, match="run `kleinod pull anna/absent`"):
        catalog.find("anna/absent")


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("klein4b", "klein-4b"),
        ("FLUX.2-klein-4B", "klein-4b"),
        ("Klein_Base_9B", "klein-base-9b"),
        ("flux2-klein-9b-kv", "klein-9b-kv"),
        ("Mini", "mini"),
        ("minni", "mini"),
    ],
)
def test_name_that_is_close_gets_a_suggestion(hub: Path, name: str, meant: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {meant}\\?"):
        catalog.find(name)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "model: the name is empty"),
        ("nothing.gguf", r"model: there is no file or folder nothing\.gguf"),
        ("models/nothing/here", "model: there is no file or folder models/nothing/here"),
        ("./x", r"model: there is no file or folder \./x"),
        ("x" * 5000, "model: cannot read x+… .File name too long"),
        ("zebra", "model: zebra is neither a path nor a known model; give a path or one of mini"),
        ("a\0b", "model: cannot read"),
    ],
)
def test_what_is_nowhere_is_named_in_one_line(hub: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        catalog.find(name)
    assert "\n" not in str(caught.value)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    assert catalog.find("~/model") == tmp_path / "model"


def test_user_without_a_home_needs_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_home(path: Path) -> Path:
        if str(path).startswith("~"):
            raise RuntimeError("Could not determine home directory.")
        return path

    monkeypatch.setattr(Path, "expanduser", no_home)
    for name in ("HF_HOME", "HF_HUB_CACHE", "KLEINOD_HOME", "KLEINOD_CACHE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert catalog.find("mini").is_dir() and catalog.cache_folder() is None
    with pytest.raises(InputError, match="klein-4b is not on this machine"):
        catalog.find("klein-4b")
    with pytest.raises(InputError, match="KLEINOD_HOME: is not set, and this user has no home"):
        catalog.config_folder()
    with pytest.raises(InputError, match="model: ~/x: Could not determine home"):
        catalog.find("~/x")
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    assert catalog.config_folder() == tmp_path


def test_cache_that_may_not_be_read_holds_no_model(
    hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    _downloaded(hub, "black-forest-labs/FLUX.2-klein-4B", "model_index.json")
    monkeypatch.setattr(Path, "stat", refuse)
    assert catalog.present(catalog.KNOWN["klein-4b"]) is None
    with pytest.raises(InputError, match=r"model: cannot read .*Permission denied"):
        catalog.find("some-path")
