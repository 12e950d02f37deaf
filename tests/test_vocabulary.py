"""What a small model knows: its file, the words of a prompt, and the warnings of a request."""

import json
import runpy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kleinod import catalog
from kleinod.errors import WeightsError
from kleinod.request import ResolvedRequest
from kleinod.request_warnings import PromptLength, RequestWarning, request_warnings
from kleinod.vocabulary import NamedObject, Vocabulary

ROOT = Path(__file__).parents[1]
MINI = catalog.find("mini")
INFO = catalog.describe("mini", MINI)


def known() -> Vocabulary:
    """The built-in model's."""
    read = Vocabulary.read(MINI)
    assert read is not None
    return read


def warnings(
    *prompts: str,
    references: int = 0,
    size: tuple[int, int] = (128, 128),
    length: PromptLength | None = None,
) -> Sequence[RequestWarning]:
    """Those of a request to the built-in model."""
    request = ResolvedRequest(
        prompts=prompts,
        references=(None,) * references,  # type: ignore[arg-type]  # only counted
        width=size[0],
        height=size[1],
        num_inference_steps=4,
        guidance_scale=1.0,
        negative_prompt="",
        seed=1,
        num_images=1,
    )
    return request_warnings(request, INFO, length)


def codes(*prompts: str, **options: Any) -> list[str]:  # noqa: ANN401 - those of warnings
    """The warnings' codes."""
    return [warning.code for warning in warnings(*prompts, **options)]


def test_the_file_is_what_the_recipe_writes() -> None:
    recipe = runpy.run_path(str(ROOT / "recipes" / "mini" / "write_vocabulary.py"))
    assert (MINI / "vocabulary.json").read_text(encoding="utf-8") == recipe[
        "vocabulary"
    ]().file_text()


def test_every_hint_leads_to_a_known_word() -> None:
    vocabulary = known()
    assert len(vocabulary.objects) == 121
    for word, meant in {**vocabulary.synonyms, **vocabulary.short_names}.items():
        assert vocabulary.unknown_words(meant) == (), meant
        assert vocabulary.nearest(word) == meant or word in vocabulary.short_names
    for word in vocabulary.synonyms:
        assert vocabulary.unknown_words(word) == (word,), f"{word} is known"


def test_the_captions_of_the_evaluation_are_known() -> None:
    from kleinod.evaluation.case_set import load

    for case in load():
        size = (case.target.size[0], case.target.size[1])
        found = codes(case.prompt, references=len(case.references), size=size)
        assert set(found) <= {"size"}, case.prompt


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a dragon and a castle", ("dragon",)),
        ("portrait of an old woman with glasses", ("portrait", "old", "woman", "glasses")),
        ("ein Fuchs", ("ein", "Fuchs")),
        ("una mariposa azul", ("una", "mariposa", "azul")),
        ("一只狐狸", ("一只狐狸",)),
        ("лиса на синем фоне", ("лиса", "на", "синем", "фоне")),
        ("हाथी", ("हाथी",)),
        ("asdf qwer zxcv asdf", ("asdf", "qwer", "zxcv")),
        ("🦊 on blue", ("🦊",)),
        ("a t-shirt", ("t-shirt",)),
        ("a fox's den", ("den",)),
        ("a steam engine", ("steam", "engine")),
        ("a tropical bird", ("tropical", "bird")),
        ("Dragons, DRAGONS and dragons", ("Dragons",)),
    ],
)
def test_unknown_words_are_found(prompt: str, words: tuple[str, ...]) -> None:
    assert known().unknown_words(prompt) == words


@pytest.mark.parametrize(
    "prompt",
    [
        "a cup of coffee",
        "two cups of coffee, 3D style",
        "three tropical fish on a sky blue background",
        "four mice and a ufo above a Christmas tree",
        "A FOX, FLAT DESIGN",
        "ice-cream on sky-blue",
        "an apple beside trees",
        "a ｆｏｘ",
        "please draw me a picture of an owl",
    ],
)
def test_known_words_are_not_named(prompt: str) -> None:
    assert known().unknown_words(prompt) == ()


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("foxx", "fox"),
        ("elefant", "elephant"),
        ("dolfin", "dolphin"),
        ("unicron", "unicorn"),
        ("Kittens", "cat"),
        ("automobile", "car"),
        ("fish", "tropical fish"),
        ("coffe", "coffee"),
        ("puprle", "purple"),
        ("grey", "gray"),
        ("papillon", "butterfly"),
        ("strange", None),
        ("engine", None),
        ("zxcv", None),
        ("x", None),
        ("狐狸", None),
        ("q" * 5000, None),
    ],
)
def test_the_nearest_word_is_a_synonym_a_part_or_alike(word: str, meant: str | None) -> None:
    assert known().nearest(word) == meant


def test_the_line_names_words_and_hints() -> None:
    (warning,) = warnings("a wizard, a kitten and an automobil")
    assert str(warning) == (
        "mini does not know: wizard, kitten, automobil; did you mean cat, car? It knows 121 "
        "objects: kleinod models mini"
    )
    assert warning.as_json() == {
        "code": "unknown_words",
        "words": ["wizard", "kitten", "automobil"],
        "nearest": {"kitten": "cat", "automobil": "car"},
        "message": str(warning),
    }


def test_many_and_long_words_stay_one_short_line() -> None:
    (warning,) = warnings(" ".join(f"strange{i}" for i in range(900)) + " " + "ä" * 9000)
    assert len(str(warning)) < 400 and "\n" not in str(warning)
    assert "and 893 more" in str(warning)
    assert len(warning.details["words"]) == 50


@pytest.mark.parametrize("prompt", ["", "   ", "\n\t", "...", "?!", "-"])
def test_an_empty_prompt_is_said(prompt: str) -> None:
    (warning,) = warnings(prompt)
    assert warning.code == "empty_prompt" and "the prompt is empty" in str(warning)


def test_prompts_of_a_batch_are_said_together() -> None:
    empty, unknown = warnings("", "a dragon", "a knight", "a fox")
    assert "1 of 4 prompts" in str(empty)
    assert unknown.details["words"] == ["dragon", "knight"]


@pytest.mark.parametrize(
    "prompt", ["blue", "on a red background", "cartoon style", "in the corner"]
)
def test_a_prompt_without_an_object_is_said(prompt: str) -> None:
    assert codes(prompt) == ["no_object"]
    assert codes(prompt, references=1) == []


@pytest.mark.parametrize(
    "prompt", ["replace the dog with a cat", "make it smaller", "both side by side"]
)
def test_words_of_edits_need_a_reference(prompt: str) -> None:
    (warning,) = warnings(prompt)
    assert warning.code == "edit_words" and "give a reference image" in str(warning)
    assert codes(prompt, references=1) == []


@pytest.mark.parametrize("size", [(512, 512), (64, 64), (128, 256), (1024, 1024)])
def test_an_untrained_size_is_said(size: tuple[int, int]) -> None:
    (warning,) = warnings("a fox", size=size)
    assert str(warning) == f"mini was trained at 128x128; {size[0]}x{size[1]} gives a poor image"


def test_more_references_than_trained_are_said() -> None:
    assert codes("both side by side", references=2) == []
    assert codes("both side by side", references=3) == ["references"]


def test_a_long_prompt_is_said() -> None:
    length = PromptLength(lambda prompt: 12 + len(prompt.split()), 32)
    assert codes(" ".join(["a fox"] * 10), length=length) == []
    (warning,) = warnings(" ".join(["a fox"] * 11), length=length)
    assert warning.as_json() == {
        "code": "prompt_too_long",
        "tokens": 34,
        "limit": 32,
        "message": "the prompt has 34 tokens with its template, and mini reads 32; the end is cut "
        "off: shorten it",
    }


def test_a_model_without_a_vocabulary_is_not_judged(tmp_path: Path) -> None:
    shutil.copy(MINI / "kleinod.json", tmp_path)
    shutil.copy(MINI / "model_index.json", tmp_path)
    assert Vocabulary.read(tmp_path) is None
    assert catalog.describe(tmp_path, tmp_path).vocabulary is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "{",
        "[" * 100_000,
        '{"objects": "fox"}',
        '{"objects": [""]}',
        '{"objects": ["fox"]}',
        '{"objects": [{"name": "fox", "plural": 1}]}',
        '{"objects": [{"name": "' + "x" * 200 + '"}]}',
        '{"objects": [{"name": "a\\u001b[31m"}]}',
        '{"objects": [], "words": ["a", 1]}',
        '{"objects": [], "words": {"a": "b"}}',
        '{"objects": [], "synonyms": ["a"]}',
        '{"objects": [], "synonyms": {"a": 1}}',
        '{"objects": [], "short_names": {"": "fox"}}',
        '{"objects": [], "native_sizes": [[128]]}',
        '{"objects": [], "native_sizes": [[128, true]]}',
        '{"objects": [], "native_sizes": [[128, -1]]}',
        '{"objects": [], "max_references": "two"}',
        '{"objects": [], "max_references": 1e9}',
        json.dumps({"objects": [], "words": ["a"] * 6000}),
        json.dumps({"objects": [], "other": "x" * (1 << 20)}),
        b'{"objects": ["\xff"]}',
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    (tmp_path / "vocabulary.json").write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        Vocabulary.read(tmp_path)
    message = str(caught.value)
    assert "vocabulary.json" in message and "\n" not in message and len(message) < 400


def test_unknown_fields_of_a_file_are_left(tmp_path: Path) -> None:
    text = '{"objects": [{"name": "zorb", "color": 1}], "later": {}}'
    (tmp_path / "vocabulary.json").write_text(text)
    assert Vocabulary.read(tmp_path) == Vocabulary((NamedObject("zorb"),))


def test_a_vocabulary_reads_back(tmp_path: Path) -> None:
    (tmp_path / "vocabulary.json").write_text(json.dumps(known().as_json()))
    assert Vocabulary.read(tmp_path) == known()


def test_more_captions_and_sizes_extend_it() -> None:
    extended = known().extended(["a blue Zorb", "two zorbs on fire"], [(192, 128), (128, 128)])
    assert extended.unknown_words("a zorb and a dragon") == ("dragon",)
    assert extended.native_sizes == ((128, 128), (192, 128))
    assert extended.objects == known().objects
