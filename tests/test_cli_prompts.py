"""A prompt from standard input."""

import io
import sys

import pytest

from kleinod.cli.prompts import MAX_BYTES, read_prompt
from kleinod.errors import InputError


def _pipe(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"a fox\n", "a fox"),
        (b"a fox", "a fox"),
        (b"a fox\r\n", "a fox"),
        (b"a fox\n\n", "a fox\n"),
        ("ein Füchslein, 一只狐狸\n".encode(), "ein Füchslein, 一只狐狸"),
        (b"\xef\xbb\xbfa fox\n", "a fox"),
        (b"  two\nlines \n", "  two\nlines "),
        (b"-\n", "-"),
    ],
)
def test_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch, data: bytes, prompt: str) -> None:
    _pipe(monkeypatch, data)
    assert read_prompt("-") == prompt


@pytest.mark.parametrize("prompt", ["a fox", "", "--", " -"])
def test_other_prompts_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch, prompt: str) -> None:
    _pipe(monkeypatch, b"not read")
    assert read_prompt(prompt) == prompt


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "prompt: standard input is empty"),
        (b" \n\n", "prompt: standard input is empty"),
        (b"a \xff fox", r"prompt: standard input is not UTF-8 \(byte 3\)"),
        ("ein Füchslein".encode("latin-1"), r"not UTF-8 \(byte 6\)"),
        (b"a" * (MAX_BYTES + 1), f"prompt: standard input is over {MAX_BYTES} bytes"),
    ],
)
def test_what_is_no_prompt_is_refused(
    monkeypatch: pytest.MonkeyPatch, data: bytes, message: str
) -> None:
    _pipe(monkeypatch, data)
    with pytest.raises(InputError, match=message):
        read_prompt("-")


def test_closed_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="prompt: standard input is closed"):
        read_prompt("-")
