"""Command lines typed by habit: what is understood, and what is said of the rest."""

from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner

import kleinod
from kleinod.cli import app


def _error(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    return result.stderr.removeprefix("error: ").rstrip("\n")


@pytest.fixture(autouse=True)
def _nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kleinod, "load", None)  # calling it would be a TypeError


# Commands


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (["gen"], "generate"),
        (["generat", "a fox"], "generate"),
        (["genrate", "a fox"], "generate"),
        (["txt2img", "a fox"], "generate"),
        (["download", "klein-4b"], "pull"),
        (["Models"], "models"),
        (["ls"], "models"),
        (["verfy", "a.png"], "verify"),
        (["help"], "--help"),
        (["version"], "--version"),
        (["keys", "creat"], "create"),
        (["audit", "sum"], "summary"),
        (["evaluate", "picture"], "pictures"),
    ],
)
def test_unknown_command_suggests_the_nearest(arguments: list[str], meant: str) -> None:
    message = _error(*arguments)
    assert message.startswith("unknown command ") and "did you mean" in message
    assert meant in message.partition("did you mean")[2]


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["a fox"], 'kleinod generate "a fox"'),
        (["fox"], 'kleinod generate "fox"'),
        (["a", "red", "fox"], 'kleinod generate "a red fox"'),
        (["a fox", "--steps", "4"], 'kleinod generate "a fox"'),
        (["models of ships"], 'kleinod generate "models of ships"'),
        (['a "red" fox'], "kleinod generate 'a \"red\" fox'"),
        (["a fox for $5"], "kleinod generate 'a fox for $5'"),
    ],
)
def test_prompt_without_a_command_is_answered_with_the_command(
    arguments: list[str], command: str
) -> None:
    assert _error(*arguments).endswith(f"to generate an image: {command}")


def test_other_groups_list_what_they_know() -> None:
    assert _error("keys", "zzz") == "unknown command 'zzz'; known are create, list, revoke"


# Words and options


@pytest.mark.parametrize(
    ("arguments", "prompt"),
    [
        (["a", "fox"], "a fox"),
        (["a", "fox", "--steps", "4"], "a fox"),
        (["--seed", "1", "a", "red", "fox", "at", "night"], "a red fox at night"),
    ],
)
def test_prompt_without_quotes_is_shown_with_them(arguments: list[str], prompt: str) -> None:
    message = _error("generate", *arguments)
    assert message == f'put the prompt in quotes: kleinod generate "{prompt}"'


def test_word_too_many_is_named() -> None:
    assert _error("verify", "a.png", "b.png").startswith('"b.png": one word too many')


@pytest.mark.parametrize(
    ("command", "option", "meant"),
    [
        ("generate", "--size", "--width and --height"),
        ("generate", "--resolution=512x512", "--width and --height"),
        ("generate", "-W", "--width"),
        ("generate", "-H", "--height"),
        ("generate", "--n", "-n"),
        ("generate", "--num-images-per-prompt", "--num-images"),
        ("generate", "--step", "--steps"),
        ("generate", "--num-inference-step", "--steps"),
        ("generate", "--cfg-scale", "--guidance"),
        ("generate", "--torch_dtype", "--dtype"),
        ("generate", "--vae", "--autoencoder"),
        ("generate", "--widht", "--width"),
        ("generate", "--ouput", "--output"),
        ("generate", "--init-image", "--reference"),
        ("bench", "--num-calls", "--calls"),
        ("pull", "--accept-licence", "--accept-license"),
        ("serve", "--prot", "--port"),
        ("repeat", "--recipt", "--receipt"),
    ],
)
def test_unknown_option_suggests_the_nearest(command: str, option: str, meant: str) -> None:
    message = _error(command, "x", option, "4")
    assert message.endswith(f"; did you mean {meant}?")


def test_argument_given_as_an_option_is_explained() -> None:
    message = _error("generate", "--prompt", "a fox")
    assert message.endswith("PROMPT is given without one: kleinod generate PROMPT")


def test_option_like_no_other_leads_to_the_help() -> None:
    message = _error("generate", "a fox", "--zzz")
    assert message == "unknown option '--zzz'; kleinod generate --help lists them"


# Python's spelling, and errors in the caller's words


@pytest.mark.parametrize("option", ["--steps", "--num-inference-steps", "--num_inference_steps"])
@pytest.mark.parametrize("command", [["generate", "a fox"], ["evaluate", "pictures"]])
def test_option_is_understood_in_pythons_spelling(command: list[str], option: str) -> None:
    assert "--steps" in _error(*command, option, "0")
    assert "--steps" in _error(*command, f"{option}=0")


@pytest.mark.parametrize(
    "option", ["-r", "--reference", "--reference-images", "--reference_images", "--image"]
)
def test_reference_is_understood_by_its_other_names(option: str) -> None:
    assert _error("generate", "a fox", option, "absent.png").startswith(
        "--reference: cannot read absent.png"
    )


def test_hidden_names_are_not_in_the_help() -> None:
    result = CliRunner().invoke(app, ["generate", "--help"], env={"COLUMNS": "200"})
    assert "--steps" in result.stdout and "--num-inference-steps" not in result.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps: 0 is under 1; give at least 1"),
        (["--guidance-scale", "0.5"], "--guidance: 0.5 is under 1; give 1.0 (none) or more"),
        (["-n", "0"], "--num-images: 0 is under 1; give at least 1"),
        (["--seed", "-1"], "--seed: -1 is under 0; give at least 0"),
        (["--width", "100"], "--width: 100 is not a multiple of 16; the nearest is 96"),
        (["--width", "8192", "--height", "64"], "--width x --height: 8192x64 is longer than 8:1"),
        (["--receipt", "receipt.txt"], "--receipt: receipt.txt must be a .json file"),
        (["-o", "a.gif"], "--output: a.gif is neither a folder nor a picture file"),
        (["--safety-tolerance", "9"], "--safety-tolerance: 9"),
    ],
)
def test_error_names_the_option_that_was_typed(arguments: list[str], message: str) -> None:
    assert _error("generate", "a fox", *arguments).startswith(message)


def test_error_in_a_group_names_the_option(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    message = _error("keys", "create", "bob", "--per-minute", "0")
    assert message.startswith("--per-minute: 0 is under 1")


def test_field_that_was_not_typed_keeps_its_name(tmp_path: Path) -> None:
    Image.new("RGB", (96, 96)).save(tmp_path / "a.png")
    assert _error("repeat", str(tmp_path / "a.png")).startswith("receipt: ")
    absent = str(tmp_path / "absent.json")
    message = _error("repeat", str(tmp_path / "a.png"), "--receipt", absent)
    assert message.startswith("--receipt: cannot read")
