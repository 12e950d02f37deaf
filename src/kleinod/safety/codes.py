"""Prompts in codes: percent signs, HTML entities, escapes, base64, hexadecimal, plain ciphers.

A model reads few of them, so little is painted of what they hide; a filter reads them all the same.
What a code says is kept only where it is text, so that hashes, colours and addresses stay as they
are. Every pattern takes time in proportion to the prompt's length. Knows nothing of categories.
"""

import base64
import binascii
import codecs
import re
import unicodedata
from collections.abc import Callable
from functools import cache
from html.entities import html5

from kleinod.safety.words import shipped_rules, vocabulary

# a code within a code within a code
_MAX_ROUNDS = 3
_ENTITY = re.compile(r"&(?:#(\d{1,7})|#[xX]([0-9a-fA-F]{1,6})|([A-Za-z][A-Za-z0-9]{1,30}));?")
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_QUOTED_PRINTABLE = re.compile(r"(?:=[0-9A-F]{2}){3,}+")
_BYTE_ESCAPES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+|(?:\\[0-3][0-7]{2}){2,}+")
_ESCAPE = re.compile(
    r"(?:\\u|%u|\\U000|\\U)(?:\{([0-9a-fA-F]{1,6})\}|([0-9a-fA-F]{4,5}))|\\N\{([A-Z0-9 -]{1,60})\}"
)
_CODE_POINTS = re.compile(r"[Uu]\+[0-9a-fA-F]{4,6}(?:[\s,;]{0,2}[Uu]\+[0-9a-fA-F]{4,6})*+")
_HEX_BYTES = re.compile(r"0x[0-9a-fA-F]{2}(?:[\s,;]{0,2}0x[0-9a-fA-F]{2})*+")
_HEX = re.compile(r"[0-9a-fA-F]{2}(?:[\s:,-]?[0-9a-fA-F]{2}){3,}+")
_DECIMAL = re.compile(r"\d{2,3}(?:[\s,;-]{1,2}\d{2,3}){3,}+")
_BINARY = re.compile(r"[01]{8}(?:[\s,]?[01]{8}){2,}+")
_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{8,}+={0,2}|[A-Za-z0-9+/_-]{3,7}={1,2}")
_WRAPPED_BASE64 = re.compile(r"[A-Za-z0-9+/_\s-]{16,}+={0,2}\s*+")
_BASE32 = re.compile(r"[A-Z2-7]{8,}+={0,6}")
_WORD = re.compile(r"[a-z]{3,}")
_QUOTED = re.compile(r"\"([^\"]*+)\"|“([^“”]*+)”|'([^']{1,40}+)'")
# letters that stand on their heads
_TURNED = str.maketrans("ɐɔǝɟƃɓɥᴉıɾʞʃןɯɹʇʌʍʎ", "acefgghiijkllmrtvwy")
_TURNED_PAIRS = str.maketrans("nupdbq", "undpqb")
_MIRROR = str.maketrans("abcdefghijklmnopqrstuvwxyz", "zyxwvutsrqponmlkjihgfedcba")
# of a cipher's words, so many are known; of the prompt's own, fewer
_MIN_KNOWN = 0.6
# the letters of all of them: a name of three or four is a word backwards by chance
_MIN_LETTERS = 5


def decoded(text: str) -> tuple[str, ...]:
    """What a prompt says in codes, beside what it says as it stands; mostly nothing."""
    plain_text = _undone(text)
    readings = dict.fromkeys((plain_text, _deciphered(plain_text), _quoted(plain_text)))
    return tuple(reading for reading in readings if reading != text)


def _quoted(text: str) -> str:
    """Strings between quotation marks as one, as a program would join them; else the text."""
    strings = ["".join(found.groups("")) for found in _QUOTED.finditer(text)]
    return "".join(strings) if len(strings) > 1 else text


def _undone(text: str) -> str:
    """A text with every code in it undone."""
    for _ in range(_MAX_ROUNDS):
        before = text
        for pattern, meaning in _CODES:
            text = pattern.sub(meaning, text)
        wrapped = _WRAPPED_BASE64.fullmatch(text)
        if wrapped is not None:
            text = _of_base64("".join(text.split())) or text
        if text == before:
            break
    return text


def _character(number: int) -> str:
    """A character by its number; what is none, or half of one, is a space."""
    is_one = number < 0x110000 and not 0xD800 <= number < 0xE000
    return chr(number) if is_one else " "


def _entity(found: re.Match[str]) -> str:
    decimal, hexadecimal, name = found.groups()
    if name is not None:
        return html5.get(f"{name};", found[0])
    return _character(int(decimal) if decimal else int(hexadecimal, 16))


def _escape(found: re.Match[str]) -> str:
    number, name = found[1] or found[2], found[3]
    if name is not None:
        try:
            return unicodedata.lookup(name)
        except KeyError:
            return found[0]
    # four digits where the fifth begins the next word
    is_long = found[0].startswith(("\\U", "\\u{", "%u{")) or len(number) <= 4
    return _character(int(number, 16)) if is_long else _character(int(number[:4], 16)) + number[4:]


def _percent(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("%", "")).decode("utf-8", "replace")


def _quoted_printable(found: re.Match[str]) -> str:
    return _text(bytes.fromhex(found[0].replace("=", "")), found[0])


def _byte_escapes(found: re.Match[str]) -> str:
    code = found[0]
    is_octal = not code.startswith("\\x")
    values = [
        int(digits, 8 if is_octal else 16) for digits in re.findall(r"[0-9a-fA-F]{2,3}", code)
    ]
    return bytes(values).decode("utf-8", "replace")


def _code_points(found: re.Match[str]) -> str:
    return "".join(
        _character(int(one, 16)) for one in re.findall(r"\+([0-9a-fA-F]{4,6})", found[0])
    )


def _decimal(found: re.Match[str]) -> str:
    values = [int(one) for one in re.findall("[0-9]+", found[0])]
    is_byte = all(value < 256 for value in values)
    return _text(bytes(values), found[0]) if is_byte else found[0]


def _hexadecimal(found: re.Match[str]) -> str:
    digits = re.sub("0x|[^0-9a-fA-F]", "", found[0])
    return _text(bytes.fromhex(digits), found[0])


def _binary(found: re.Match[str]) -> str:
    digits = re.sub("[^01]", "", found[0])
    values = [int(digits[at : at + 8], 2) for at in range(0, len(digits), 8)]
    return _text(bytes(values), found[0])


def _base64(found: re.Match[str]) -> str:
    return _of_base64(found[0]) or found[0]


def _of_base64(code: str) -> str:
    """The text behind a code; empty for none."""
    bare = code.rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        value = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except binascii.Error:
        return ""
    return _text(value, "")


def _base32(found: re.Match[str]) -> str:
    bare = found[0].rstrip("=")
    try:
        value = base64.b32decode(bare + "=" * (-len(bare) % 8))
    except binascii.Error:
        return found[0]
    return _text(value, found[0])


def _text(value: bytes, otherwise: str) -> str:
    """Bytes as text, where nearly all are letters, digits and spaces, most of them letters."""
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        return otherwise
    num_letters = sum(one.isalpha() or one.isspace() for one in text)
    num_digits = sum(one.isdigit() for one in text)
    is_text = num_letters >= 0.6 * len(text) and num_letters + num_digits >= 0.8 * len(text)
    return text if len(text) > 2 and is_text else otherwise


_CODES: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], str]], ...] = (
    (_ENTITY, _entity),
    (_ESCAPE, _escape),
    (_BYTE_ESCAPES, _byte_escapes),
    (_CODE_POINTS, _code_points),
    (_PERCENT, _percent),
    (_QUOTED_PRINTABLE, _quoted_printable),
    (_BINARY, _binary),
    (_HEX_BYTES, _hexadecimal),
    (_HEX, _hexadecimal),
    (_DECIMAL, _decimal),
    (_BASE32, _base32),
    (_BASE64, _base64),
)


def _deciphered(text: str) -> str:
    """A text backwards, upside down or with other letters, where only that makes words of it."""
    lower = text.casefold()
    if _share_known(lower) >= _MIN_KNOWN:
        return text
    turned = lower.translate(_TURNED)
    candidates = [
        lower[::-1],
        " ".join(word[::-1] for word in lower.split()),
        codecs.encode(lower, "rot13"),
        lower.translate(_MIRROR),
    ]
    if turned != lower:
        upside_down = lower.translate(_TURNED_PAIRS).translate(_TURNED)
        candidates += [turned, turned[::-1], upside_down, upside_down[::-1]]
    best = max(candidates, key=_share_known)
    return best if _share_known(best) >= _MIN_KNOWN else text


def _share_known(text: str) -> float:
    """How many of a text's longer words are English, from 0 to 1; 0 for a few letters."""
    words = _WORD.findall(text)
    known = [word for word in words if word in _known()]
    return len(known) / len(words) if sum(map(len, known)) >= _MIN_LETTERS else 0.0


@cache
def _known() -> frozenset[str]:
    return vocabulary() | shipped_rules().lexicon
