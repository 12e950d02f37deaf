"""Filters as a user of the command meets them."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from kleinod.cli import app
from kleinod.provenance import container
from kleinod.safety.pictures import Drawings
from kleinod.safety.verdicts import SEXUAL


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _receipt(path: Path) -> dict[str, Any]:
    with Image.open(path) as picture:
        receipt = container.receipt_in(picture)
    assert receipt is not None
    return receipt


def _assert_moderated(result: Result, moment: str, *, where: str = "") -> None:
    """Exit status 3 and one line that repeats nothing of the prompt."""
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith(f"moderated: {where}the {moment} was blocked: ")
    assert result.stderr.count("\n") == 1
    assert "nude" not in result.stderr


def test_prompt_is_stopped_before_a_model_is_looked_for(folder: Path) -> None:
    result = _run("generate", "a nude woman", "--model", "no/such/model")
    _assert_moderated(result, "prompt")
    assert "sexual content" in result.stderr and list(folder.iterdir()) == []


def test_whoever_is_stopped_is_told_where_to_report_a_mistake(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLEINOD_HOME", str(folder))
    (folder / "safety.toml").write_text('report_address = "help@example.org"\n')
    result = _run("generate", "a nude woman")
    _assert_moderated(result, "prompt")
    assert result.stderr.endswith("; report a mistake to help@example.org\n")


def test_receipt_holds_filters_and_verdicts(tiny_model: Path, folder: Path) -> None:
    assert _run("generate", "a fox", "--model", tiny_model, "-o", "a.png").exit_code == 0
    safety = _receipt(folder / "a.png")["safety"]
    names = [one["name"] for one in safety["filters"]]
    assert names == ["words", "sentences", "opennsfw", "drawings"]
    assert all(one["version"] for one in safety["filters"]) and safety["tolerance"] == 2
    assert {one["moment"] for one in safety["verdicts"]} == {"prompt", "result"}
    assert all(one["score"] < one["threshold"] for one in safety["verdicts"])


def test_receipt_says_that_filters_were_off(tiny_model: Path, folder: Path) -> None:
    result = _run(
        *("generate", "a nude woman", "--model", tiny_model, "-o", "a.png", "--safety", "off")
    )
    assert result.exit_code == 0, result.output
    assert _receipt(folder / "a.png")["safety"] == {"filters": "off"}
    _assert_moderated(_run("repeat", "a.png", "--model", tiny_model), "prompt")


def test_stopped_result_is_not_written_and_the_others_are(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.95, 0.2])
    monkeypatch.setattr(Drawings, "scores", lambda *_: {SEXUAL: next(scores)})
    result = _run(
        *("generate", "a fox", "--model", tiny_model, "-n", 3, "--seed", 5, "-o", "a.png", "--json")
    )
    _assert_moderated(result, "result", where="image 2 of 3 (seed 6, prompt 'a fox'): ")
    told = json.loads(result.stdout)
    assert [one["seed"] for one in told["images"]] == [5, 7] and told["num_moderated"] == 1
    assert len(list(folder.iterdir())) == 2


def test_reference_is_stopped_before_the_model_is_loaded(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Drawings, "scores", lambda *_: {SEXUAL: 0.95})
    Image.new("RGB", (64, 64), "red").save("reference.png")
    result = _run("generate", "a fox", "-r", "reference.png", "--model", "no/such/model")
    _assert_moderated(result, "reference")


def test_filter_that_crashes_leaves_nothing(
    tiny_model: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(Drawings, "scores", crash)
    result = _run("generate", "a fox", "--model", tiny_model)
    assert result.exit_code == 1 and list(folder.iterdir()) == []
    assert "drawings crashed" in result.stderr and "--safety off" in result.stderr


def test_tolerance_outside_is_a_mistake() -> None:
    result = _run("generate", "a fox", "--safety-tolerance", 6)
    assert result.exit_code == 2 and "--safety-tolerance: 6 is not from 0 to 5" in result.stderr


def test_evaluation_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    from kleinod.safety import evaluation

    corpus = evaluation.corpus()
    monkeypatch.setattr(evaluation, "corpus", lambda: corpus[::12])
    result = _run("evaluate", "safety", "--json", "--all")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["english"]["num_benign"] > 20 and "none are part" in told["not_measured"]
    assert told["languages"]["ru"]["num_disallowed"] > 0
    assert "homoglyph" in told["kinds"] and "wrong" in told
    table = _run("evaluate", "safety").stdout
    assert "language" in table and "kind, English" in table
    assert "nonconsensual" in table and "benign prompts pass" in table
