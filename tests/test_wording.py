"""Messages over HTTP: nothing in them that only a command line can do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import kleinod
from kleinod.errors import InputError
from kleinod.server.api import problems
from kleinod.server.api.messages import client_message

ROOT = Path(kleinod.__file__).parent
FLAG = re.compile(r"--[a-z]")
# modules whose errors cannot reach a caller: the command line's own, and tools beside the server
ELSEWHERE = ("cli", "bench", "training")


def _texts(node: ast.AST) -> Iterator[str]:
    """Every text that an expression may give, its values written as X."""
    for part in ast.walk(node):
        if isinstance(part, ast.JoinedStr):
            yield "".join(v.value if isinstance(v, ast.Constant) else "X" for v in part.values)
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            yield part.value


def _messages() -> Iterator[str]:
    """Texts with a flag in all modules of the package that a server imports."""
    for path in ROOT.rglob("*.py"):
        if path.relative_to(ROOT).parts[0] in ELSEWHERE:
            continue
        for text in _texts(ast.parse(path.read_text(encoding="utf-8"))):
            if FLAG.search(text) and "\n" not in text:
                yield text


MESSAGES = sorted(set(_messages()))


def test_there_are_such_messages() -> None:
    assert any("--c2pa" in text for text in MESSAGES)
    assert any("--private" in text for text in MESSAGES)


@pytest.mark.parametrize("text", MESSAGES)
def test_no_flag_reaches_a_caller(text: str) -> None:
    for whole in (text, f"field: X is over Y; {text}"):
        shown = client_message(whole)
        assert shown
        assert not FLAG.search(shown), shown
        assert not shown.endswith((" or", ";", ","))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "prompt: 9 bytes are over the 5 that a receipt in a .jpg file holds; write a .png or "
            "leave the prompt out with --private",
            "prompt: 9 bytes are over the 5 that a receipt in a .jpg file holds; ask for "
            "output_format png",
        ),
        (
            "watermark: the reference's is lost in a .webp file, whose colours are halved; write a "
            ".png or .jpg, or take --watermark robust",
            "watermark: the reference's is lost in a .webp file, whose colours are halved; ask for "
            "output_format png or jpeg",
        ),
        (
            "c2pa: signing failed (bad; box); --c2pa off leaves it out",
            "c2pa: signing failed (bad; box)",
        ),
        (
            "safety filter x crashed (E); nothing is painted; mend it, or switch all filters off "
            "with --safety off",
            "safety filter x crashed (E); nothing is painted; mend it",
        ),
        (
            "guidance_scale: 2.0 on a distilled model; leave it out or 1.0",
            "guidance: 2.0 on a distilled model; leave it out or 1.0",
        ),
        (
            "num_inference_steps: 0 is under 1; give at least 1",
            "steps: 0 is under 1; give at least 1",
        ),
        ("give --tokenizer PATH", "this server's settings do not allow it"),
        (
            "width: 65 is not a multiple of 16; the nearest is 64",
            "width: 65 is not a multiple of 16; the nearest is 64",
        ),
        ("a -- b and well-known--names stay", "a -- b and well-known--names stay"),
        ("two\nlines\u2028and \x1b[8m", r"two lines and \x1b[8m"),
    ],
)
def test_callers_read_their_own_words(text: str, shown: str) -> None:
    assert client_message(text) == shown


def test_long_messages_are_cut() -> None:
    assert len(client_message("prompt: " + "a" * 10**6)) <= 2000


def test_field_of_a_problem_is_the_apis() -> None:
    problem = problems.of_input(
        InputError("guidance_scale: 2.0 on a distilled model; leave it out")
    )
    assert (problem.param, problem.status) == ("guidance", 422)
