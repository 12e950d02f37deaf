"""Text, JSON and TOML from people's files, and files written whole or not at all. No torch.

Editors of Windows begin UTF-8 with a byte order mark (BOM), and offer UTF-16 as "Unicode"; both are
read. Text in any other encoding is refused, since nothing in it says which one it is.
"""

import codecs
import json
import logging
import os
import secrets
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kleinod.errors import InputError
from kleinod.paths import open_regular_file, shown

_log = logging.getLogger(__name__)

PART_PREFIX, PART_SUFFIX = ".kleinod-", ".part"
# the BOM of UTF-32 LE begins with that of UTF-16 LE, so it is compared first
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)


def read_text(path: Path, field: str) -> str:
    """The text of a file, without BOM and with newlines as \\n. Raises InputError.

    UTF-8 with or without a BOM, UTF-16 and UTF-32 with one. `field` begins the message.
    """
    try:
        with open_regular_file(path) as file:
            data = file.read()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{field}: cannot read {shown(path)} ({reason}); check the path"
        ) from error
    bom, encoding = next((pair for pair in _BOMS if data.startswith(pair[0])), (b"", "utf-8"))
    try:
        text = data.removeprefix(bom).decode(encoding)
    except UnicodeDecodeError as error:
        raise InputError(_wrong_encoding(path, field)) from error
    # UTF-16 without a BOM is valid UTF-8 as far as ASCII goes: every other character is NUL
    if "\0" in text:
        raise InputError(_wrong_encoding(path, field))
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _wrong_encoding(path: Path, field: str) -> str:
    return f"{field}: {path} is not text in UTF-8; save it as UTF-8"


def read_json(path: Path, field: str) -> Any:  # noqa: ANN401 - whatever the file holds
    """The value of a JSON file, in the encodings of `read_text`. Raises InputError."""
    text = read_text(path, field)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(_invalid(path, field, f"JSON: {error}")) from error


def read_toml(path: Path, field: str) -> dict[str, Any]:
    """The table of a TOML file, in the encodings of `read_text`. Raises InputError."""
    text = read_text(path, field)
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(_invalid(path, field, f"TOML: {error}")) from error


def _invalid(path: Path, field: str, reason: str) -> str:
    return f"{field}: {path} cannot be read (not valid {reason}); correct it"


def create_folder(folder: Path) -> None:
    """Make a folder, and those above it, where it is missing; that is logged. Raises OSError."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        _log.info("created folder %s", shown(folder))


def write_atomic(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Write a file whole or not at all; text as UTF-8. Raises OSError."""
    with atomic_path(path, sync=sync) as part:
        part.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """Another path in the same folder, to write to; it becomes `path` if nothing is raised.

    A link stays a link: the file that it leads to is replaced. sync: the data is on the disk
    before the file has its name, so that not even a power failure leaves an empty file.
    Raises OSError.
    """
    target = Path(os.path.realpath(path))
    create_folder(target.parent)
    part = target.with_name(f"{PART_PREFIX}{secrets.token_hex(8)}{PART_SUFFIX}")
    try:
        yield part
        if sync:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        os.replace(part, target)
    finally:
        with suppress(OSError):
            part.unlink()
