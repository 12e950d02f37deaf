"""Text from outside on its way to a person: one line, printable, bounded.

A prompt, a model's name, a path or a signer may hold line breaks, terminal escape sequences or
signs that reverse the reading order. `printable` writes such characters as Python escapes, so that
nobody's text can forge a line of ours. For log lines, terminals and error messages; JSON has its
own escapes, HTML too. Knows nothing of who prints.
"""

MAX_CHARACTERS = 1000
_ELLIPSIS = "…"


def printable(text: object, *, limit: int = MAX_CHARACTERS) -> str:
    """The text on one line of at most `limit` characters, all of them printable.

    What `str.isprintable` refuses (control characters, line and paragraph separators, invisible
    and bidirectional format characters, lone surrogates) becomes `\\n`, `\\x1b`, `\\u202e` …; a
    longer text ends with an ellipsis, never within an escape. Backslashes stay as they are.
    """
    whole = text if isinstance(text, str) else str(text)
    if len(whole) <= limit and whole.isprintable():
        return whole
    pieces, length = list[str](), 0
    for character in whole:
        piece = character if character.isprintable() else _escaped(character)
        if length + len(piece) > limit:
            return _cut(pieces, length, limit)
        pieces.append(piece)
        length += len(piece)
    return "".join(pieces)


def quoted(value: object, *, limit: int = 100) -> str:
    """A name or value in quotation marks, as a message shows what a file or a user gave."""
    # of a string of megabytes only the beginning is escaped
    short = value[: limit + 1] if isinstance(value, str | bytes) else value
    return printable(repr(short), limit=limit)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _cut(pieces: list[str], length: int, limit: int) -> str:
    while pieces and length > limit - len(_ELLIPSIS):
        length -= len(pieces.pop())
    return "".join(pieces) + _ELLIPSIS
