"""A prompt that is `-` is read from standard input."""

import sys

from kleinod.errors import InputError

STANDARD_INPUT = "-"
MAX_BYTES = 1 << 20


def read_prompt(prompt: str) -> str:
    """The prompt itself; for `-`, what standard input holds, without its last line's end.

    Text is UTF-8, with or without a byte order mark, at most 1 MiB. Raises InputError.
    """
    if prompt != STANDARD_INPUT:
        return prompt
    text = _decoded(_standard_input())
    text = text.removesuffix("\n").removesuffix("\r")
    if not text.strip():
        raise InputError("prompt: standard input is empty; pipe a prompt into it")
    return text


def _standard_input() -> bytes:
    if sys.stdin is None or sys.stdin.closed:
        raise InputError("prompt: standard input is closed; pipe a prompt into it")
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"prompt: cannot read standard input ({reason}); pipe text") from error
    if len(data) > MAX_BYTES:
        raise InputError(f"prompt: standard input is over {MAX_BYTES} bytes; give a shorter prompt")
    return data


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"prompt: standard input is not UTF-8 (byte {error.start + 1}); give UTF-8 text"
        ) from error
