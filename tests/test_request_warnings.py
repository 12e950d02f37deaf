"""Where a request's warnings are told: command line, --json, Python, a fine-tuned model."""

import json
import logging
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import kleinod
from kleinod import catalog
from kleinod.cli import app
from kleinod.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def pipe() -> kleinod.Pipeline:
    """The built-in model, without what these tests do not ask for."""
    provenance = kleinod.ProvenanceOptions(watermark="none", c2pa=False)
    return kleinod.load("mini", device="cpu", safety="off", provenance=provenance)


def _generate(tmp_path: Path, *arguments: str) -> Result:
    options = ["--seed", "7", "--safety", "off", "--c2pa", "off", "-o", str(tmp_path / "out.png")]
    return CliRunner().invoke(app, ["generate", *arguments, *options])


def _lines(result: Result) -> list[str]:
    return [line for line in result.stderr.splitlines() if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["a wizard"],
            "warning: mini does not know: wizard. It knows 121 objects: kleinod models mini",
        ),
        (
            ["ein Fuchs"],
            "warning: mini does not know: ein, Fuchs; did you mean fox? It knows 121 objects: "
            "kleinod models mini",
        ),
        ([""], "warning: the prompt is empty; say what to generate"),
        (
            ["a fox", "--width", "64"],
            "warning: mini was trained at 128x128; 64x128 gives a poor image",
        ),
        (
            [", ".join(["a fox on a blue background"] * 6)],
            "warning: the prompt has 53 tokens with its template, and mini reads 32; the end is "
            "cut off: shorten it",
        ),
    ],
)
def test_the_command_warns_in_one_line_and_generates(
    tmp_path: Path, arguments: list[str], line: str
) -> None:
    result = _generate(tmp_path, *arguments)
    assert result.exit_code == 0, result.stderr
    assert _lines(result) == [line]
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.height == 128


def test_a_prompt_of_known_words_is_not_warned_of(tmp_path: Path) -> None:
    result = _generate(tmp_path, "a fox on a blue background", "--json")
    assert result.exit_code == 0 and result.stderr == ""
    assert json.loads(result.stdout)["warnings"] == []


def test_json_has_the_warnings(tmp_path: Path) -> None:
    result = _generate(tmp_path, "a kitten and a knight", "--json")
    (warning,) = json.loads(result.stdout)["warnings"]
    assert warning == {
        "code": "unknown_words",
        "words": ["kitten", "knight"],
        "nearest": {"kitten": "cat"},
        "message": "mini does not know: kitten, knight; did you mean cat? It knows 121 objects: "
        "kleinod models mini",
    }


def test_python_has_the_warnings_and_logs_each_once(
    pipe: kleinod.Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "kleinod"):
        first = pipe.generate(["a knight", "a fox"], seed=1, steps=1)
        last = list(pipe.stream("a knight", seed=2, steps=1))[-1]
    assert [warning.code for warning in first.warnings] == ["unknown_words"]
    assert first.warnings[0].details["words"] == ["knight"]
    assert last.result is not None and last.result.warnings == first.warnings
    assert [record.message for record in caplog.records] == [str(first.warnings[0])]


def test_words_of_a_private_prompt_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    provenance = kleinod.ProvenanceOptions(watermark="none", c2pa=False, private=True)
    private = kleinod.load("mini", device="cpu", safety="off", provenance=provenance)
    with caplog.at_level(logging.WARNING, "kleinod"):
        assert private.generate("a knight", seed=1, steps=1).warnings
    assert caplog.records == []


def test_an_edit_and_its_references_are_warned_of(pipe: kleinod.Pipeline) -> None:
    picture = Image.new("RGB", (128, 128), "white")
    assert pipe.generate("mirror it", reference_images=picture, steps=1).warnings == ()
    (warning,) = pipe.generate(
        "both side by side", reference_images=[picture] * 3, steps=1
    ).warnings
    assert str(warning) == "mini was trained with at most 2 references; 3 give a poor image"


def test_a_model_without_a_vocabulary_warns_of_length_alone(tiny_model: Path) -> None:
    other = kleinod.load(tiny_model, device="cpu", safety="off")
    limit = other.sampler.tokenizer.max_length
    assert other.generate("", steps=1).warnings[0].code == "empty_prompt"
    (warning,) = other.generate("knight " * limit, steps=1).warnings
    assert warning.code == "prompt_too_long" and warning.details["limit"] == limit


def test_a_fine_tuned_model_knows_its_captions_words(tmp_path: Path) -> None:
    from kleinod.training.finetune import FinetuneRecipe, finetune

    data = tmp_path / "data"
    data.mkdir()
    for name, size in (("one", (128, 128)), ("two", (96, 128))):
        Image.new("RGB", size, "blue").save(data / f"{name}.png")
        (data / f"{name}.txt").write_text(f"a blue zorb, number {name}")
    recipe = FinetuneRecipe(
        data=str(data), output=str(tmp_path / "out"), run=str(tmp_path / "run"), steps=1, batch=1
    )
    folder = finetune(recipe)
    known = Vocabulary.read(folder)
    assert known is not None
    assert known.unknown_words("a zorb and a wizard") == ("wizard",)
    assert known.native_sizes == ((128, 128), (96, 128))
    stated = json.loads((folder / "kleinod.json").read_text())
    assert "vocabulary" not in stated
    assert catalog.describe(folder, folder).vocabulary == known
