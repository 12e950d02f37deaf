"""Where a package of an extra is missing, the message says what installs it, and that works."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kleinod import extras
from kleinod.errors import InputError

ROOT = Path(__file__).parents[1]
IGNORED = {".venv", ".git", "node_modules", "build", "dist", "runs"}
PUBLIC_LINES = sorted(
    path
    for folder in ("src", "docs", "recipes", "examples", "benchmarks", ".")
    for path in (ROOT / folder).glob("*" if folder == "." else "**/*")
    if path.suffix in (".py", ".md", ".toml") or path.name == "Makefile"
    if not IGNORED & set(path.relative_to(ROOT).parts)
)


@pytest.fixture
def not_in_a_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    """kleinod as it is imported from site-packages."""
    monkeypatch.setattr(extras, "_source_tree", lambda: None)


def _installed_from(url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that pip made from a URL; None: from an index."""
    info = tmp_path / "site" / "kleinod-9.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.4\nName: kleinod\nVersion: 9\n")
    if url:
        (info / "direct_url.json").write_text(json.dumps({"url": url}))
    monkeypatch.syspath_prepend(str(info.parent))


@pytest.mark.parametrize("extra", ["serve", "train", "bench", "test"])
def test_error_names_field_package_and_the_line(extra: str) -> None:
    error = extras.missing_package("field", "a_module", extra=extra)
    assert isinstance(error, InputError)
    assert str(error) == (
        f"field: the package a_module is missing; run `pip install '.[{extra}]'` in {ROOT}"
    )


@pytest.mark.usefixtures("not_in_a_clone")
@pytest.mark.parametrize("url", [None, "https://host.example/kleinod.whl", "file:///not/there"])
def test_without_a_clone_at_hand_the_line_asks_for_one(
    url: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _installed_from(url, tmp_path, monkeypatch)
    assert extras.install_remedy("serve") == "run `pip install '.[serve]'` in a clone of kleinod"


@pytest.mark.usefixtures("not_in_a_clone")
def test_installed_from_a_clone_the_line_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path / "my clone"
    (clone / "src" / "kleinod").mkdir(parents=True)
    (clone / "pyproject.toml").touch()
    _installed_from(clone.as_uri(), tmp_path, monkeypatch)
    assert extras.install_remedy("train") == f"run `pip install '.[train]'` in {clone}"


@pytest.mark.usefixtures("not_in_a_clone")
@pytest.mark.parametrize("name", ["a", "with space", "it's"])
def test_installed_from_a_wheel_the_line_installs_the_wheel(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / name / "kleinod-9-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    _installed_from(wheel.as_uri(), tmp_path, monkeypatch)
    line = re.fullmatch(r"run `(pip install .*)`", extras.install_remedy("serve"))
    assert line
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {line[1]}"], check=True, capture_output=True, text=True
    )
    assert words.stdout.splitlines() == ["pip", "install", f"{wheel}[serve]"]


@pytest.mark.parametrize("path", PUBLIC_LINES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_installs_kleinod_from_an_index(path: Path) -> None:
    # the name is registered by nobody: whoever does would own these lines
    commands = re.findall(r"\b(?:pip|uv) (?:install|add)([^`\n]*)", path.read_text("utf-8"))
    words = [word.strip("'\"") for command in commands for word in command.split()]
    assert not [word for word in words if re.match(r"kleinod(\W|$)", word)]


COMMANDS = {
    "serve": (["serve"], ["fastapi", "uvicorn", "alembic", "pydantic_settings", "sqlalchemy"]),
    "keys": (["keys", "list"], ["sqlalchemy", "pydantic_settings", "alembic"]),
    "against": (["bench", "--against", "diffusers"], ["diffusers", "transformers", "accelerate"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("field", "module"), [(field, name) for field, (_, names) in COMMANDS.items() for name in names]
)
def test_command_without_its_extra_is_one_line(field: str, module: str) -> None:
    extra = "bench" if field == "against" else "serve"
    program = (
        f"import sys; sys.modules['{module}'] = None; sys.argv[0] = 'kleinod';"
        "from kleinod.cli import main; main()"
    )
    command = [sys.executable, "-c", program, *COMMANDS[field][0]]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 2, result.stderr
    assert result.stderr == (
        f"error: {'--' if field == 'against' else ''}{field}: the package {module} is missing; "
        f"run `pip install '.[{extra}]'` in {ROOT}\n"
    )
