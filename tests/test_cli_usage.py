"""Command lines typed by habit: what is understood, and what is said of the rest."""

import os
import socket
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


# Paths


@pytest.fixture
def odd_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named pipe, a socket and a folder in the current folder."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    Path("folder").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")  # the name stays


@pytest.mark.usefixtures("odd_paths")
@pytest.mark.parametrize(
    "command",
    [
        ["audit", "verify"],
        ["audit", "summary"],
        ["verify"],
        ["repeat"],
        ["train"],
        ["inspect"],
        ["models"],
        ["keys", "list", "--config"],
        ["serve", "--config"],
        ["generate", "a fox", "--reference"],
        ["generate", "a fox", "--model"],
        ["evaluate", "pictures", "--model"],
        ["bench", "--model"],
        ["convert", "out.safetensors", "--to", "bfl"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("path", ["pipe", "socket", "folder", "/dev/null", "/dev/zero"])
def test_what_is_no_file_is_refused_at_once(command: list[str], path: str) -> None:
    message = _error(command[0], path, *command[1:]) if "convert" in command else None
    message = message or _error(*command, path)
    assert path in message and len(message) < 400


@pytest.mark.usefixtures("odd_paths")
@pytest.mark.parametrize("option", ["--text-encoder", "--autoencoder", "--tokenizer"])
@pytest.mark.parametrize("path", ["pipe", "socket", "/dev/zero", "https://example.org/a.gguf"])
def test_part_that_is_no_file_is_refused(tiny_model: Path, option: str, path: str) -> None:
    message = _error("generate", "a fox", "--model", str(tiny_model), option, path)
    assert message.startswith(f"{option}: {path.replace('//', '/')} is a")


@pytest.mark.usefixtures("odd_paths")
def test_picture_does_not_replace_a_named_pipe() -> None:
    os.rename("pipe", "pipe.png")
    assert "pipe.png (a named pipe" in _error("generate", "a fox", "-o", "pipe.png")


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (["generate", "a fox", "-r", ""], "--reference"),
        (["generate", "a fox", "--reference="], "--reference"),
        (["generate", "a fox", "-o", ""], "--output"),
        (["generate", "a fox", "--model", ""], "--model"),
        (["generate", "a fox", "--receipt", ""], "--receipt"),
        (["generate", "a fox", "--text-encoder", ""], "--text-encoder"),
        (["verify", ""], "PICTURE"),
        (["train", ""], "CONFIG"),
        (["audit", "verify", ""], "FILE"),
        (["keys", "list", "--config", ""], "--config"),
    ],
)
def test_empty_path_is_refused(arguments: list[str], field: str) -> None:
    message = _error(*arguments)
    assert message.startswith(f"{field}: the ") and " is empty; " in message


@pytest.mark.parametrize(
    ("url", "remedy"),
    [
        ("https://huggingface.co/owner/name", "`kleinod pull owner/name`"),
        ("https://hf.co/owner/name/tree/main", "`kleinod pull owner/name`"),
        ("hf://owner/name", "`kleinod pull owner/name`"),
        ("https://example.org/a.safetensors", "download it"),
        ("s3://bucket/model", "download it"),
        ("file:///home/a/model", "download it"),
    ],
)
@pytest.mark.parametrize("command", [["generate", "a fox", "--model"], ["inspect"], ["models"]])
def test_url_of_a_model_gets_a_remedy(command: list[str], url: str, remedy: str) -> None:
    message = _error(*command, url)
    assert url in message and remedy in message


@pytest.mark.parametrize("url", ["https://example.org/a.png", "HTTP://a/b.jpg", "s3://a/b.png"])
def test_url_of_a_reference_gets_a_remedy(url: str) -> None:
    assert "download it" in _error("generate", "a fox", "-r", url)


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a fox", "--model", "x" * 5000],
        ["generate", "a fox", "--model", "a/" * 3000],
        ["generate", "a fox", "-r", "x" * 5000],
        ["generate", "a fox", "-o", "x" * 5000 + ".png"],
        ["generate", "a fox", "-o", "x" * 5000 + ".xyz"],
        ["generate", "a fox", "--text-encoder", "x" * 5000],
        ["generate", "a fox", "--receipt", "x" * 5000],
        ["generate", "a fox", "--" + "x" * 5000],
        ["generate", "a fox", "--dtype", "x" * 5000],
        ["verify", "x" * 5000],
        ["audit", "verify", "x" * 5000],
        ["keys", "list", "--config", "x" * 5000],
        ["x" * 5000],
    ],
    ids=lambda arguments: " ".join(one[:20] for one in arguments),
)
def test_long_name_is_cut_in_a_message(arguments: list[str]) -> None:
    assert len(_error(*arguments)) < 700


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
