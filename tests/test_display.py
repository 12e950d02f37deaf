"""Text from outside, shown to people: nothing in it can be a line, a command or a direction."""

import sys

import pytest

from kleinod import display

HOSTILE = (
    "a\nb",
    "a\r\nProved (by a signature that holds):",
    "\x1b]0;title\x07\x1b[8mhidden",
    "a\u2028b\u2029c\u0085d\x0b\x0c",
    "\u202egpj.exe\u2066\u2069\u200f\u061c",
    "zero\u200bwidth\ufeff\u00ad\u2060",
    "\ud800 lone \udfff",
    "\x9b31m C1 \x00",
    "tag \U000e0041\U000e007f",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_becomes_one_printable_line(text: str) -> None:
    shown = display.printable(text)
    assert shown.isprintable()
    assert shown.splitlines() == [shown]
    shown.encode("utf-8")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a fox, ein Fuchs, 狐, ثعلب 🦊", "a fox, ein Fuchs, 狐, ثعلب 🦊"),
        ("a\nb\tc", r"a\nb\tc"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202e", r"\u202e"),
        ("\U000e0041", r"\U000e0041"),
        ("\udc80", r"\udc80"),
        ("C:\\new", "C:\\new"),
        ("", ""),
    ],
)
def test_ordinary_text_stays_and_the_rest_is_escaped(text: str, shown: str) -> None:
    assert display.printable(text) == shown


@pytest.mark.parametrize("limit", [1, 2, 7, 100])
@pytest.mark.parametrize("text", ["a" * 500, "\n" * 500, "ab\u202e" * 100, "\U000e0041" * 50])
def test_length_is_bounded_and_no_escape_is_cut(text: str, limit: int) -> None:
    shown = display.printable(text, limit=limit)
    assert len(shown) <= limit
    assert shown.endswith("…")
    rest = shown.removesuffix("…").replace(r"\n", "").replace(r"\u202e", "")
    assert "\\" not in rest.replace(r"\U000e0041", "")


def test_text_that_fits_is_whole() -> None:
    assert display.printable("a" * 1000) == "a" * 1000
    assert display.printable("\n" * 500) == r"\n" * 500


def test_every_character_of_unicode_is_shown_printable() -> None:
    for code in range(sys.maxunicode + 1):
        assert display.printable(chr(code)).isprintable(), hex(code)


@pytest.mark.parametrize(
    ("value", "shown"),
    [("a'b\n", '"a\'b\\n"'), (b"\xff", r"b'\xff'"), ([1, 2], "[1, 2]"), (None, "None")],
)
def test_values_are_quoted(value: object, shown: str) -> None:
    assert display.quoted(value) == shown


@pytest.mark.parametrize("value", ["a" * 10**6, b"\0" * 10**6, ["\x1b" * 999]])
def test_quoted_values_are_short(value: object) -> None:
    assert len(display.quoted(value)) <= 100
    assert display.quoted(value).isprintable()
