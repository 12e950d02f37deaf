"""The examples of docs/http.md, run against a real server; the tables name what there is."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from http_pictures import picture
from http_server import Server

from kleinod.server.api.bfl_models import KleinInputs, TaskStatus
from kleinod.server.api.openai_models import EditInputs, GenerationInputs

PAGE = (Path(__file__).parents[1] / "docs" / "http.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```(sh|py)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ADDRESS = "http://127.0.0.1:8686"


@pytest.mark.parametrize(("language", "text"), EXAMPLES, ids=range(len(EXAMPLES)))
def test_example_works(server: Server, tmp_path: Path, language: str, text: str) -> None:
    assert ADDRESS in text
    for name in ("fox.png", "owl.png"):
        (tmp_path / name).write_bytes(picture(size=(128, 128)))
    program = {"sh": ["sh", "-ec"], "py": [sys.executable, "-W", "ignore::ResourceWarning", "-c"]}
    command = [*program[language], text.replace(ADDRESS, server.url)]
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    subprocess.run(command, check=True, cwd=tmp_path, timeout=300, capture_output=True)
    changed = {path for path in tmp_path.iterdir() if before.get(path) != path.stat().st_mtime_ns}
    assert changed and all(path.stat().st_size > 1000 for path in changed)


def test_examples_are_found() -> None:
    assert [language for language, _ in EXAMPLES] == ["sh", "sh", "py", "sh", "py"]


@pytest.mark.parametrize("model", [KleinInputs, GenerationInputs, EditInputs])
def test_every_field_is_explained(
    model: type[KleinInputs] | type[GenerationInputs] | type[EditInputs],
) -> None:
    named = set(re.findall(r"`(\w+)`", PAGE))
    fields = {name for name in model.model_fields if not re.search(r"_\d$", name)}
    assert fields - named - {"prompt"} == set()


def test_every_status_is_named() -> None:
    words = " ".join(PAGE.split())  # a line may break within a status
    assert {status for status in TaskStatus.__args__ if f"`{status}`" not in words} == set()
