"""Paths as users give them: `~`, URLs, named pipes and devices, folders that cannot be read.

`Path.expanduser` raises RuntimeError where there is no home, `Path.exists` OSError for what may not
be looked at. To open a named pipe waits until somebody writes to it, and a device may have no end:
`open_regular_file` opens neither. No torch in here.
"""

import errno
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from kleinod.display import printable
from kleinod.errors import InputError

# a path in a message: long enough for every real one, short enough for a line
MAX_CHARACTERS = 200
# pathlib makes one slash of two
_URL = re.compile(r"(https?|ftp|file|s3|gs|hf|data):/?", re.IGNORECASE)
# a repository on the Hub
_HUB_URL = re.compile(
    r"(?:https?:/{1,2}(?:www\.)?(?:huggingface\.co|hf\.co)/|hf:/{1,2})"
    r"([\w-][\w.-]*/[\w-][\w.-]*)",
    re.ASCII | re.IGNORECASE,
)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def is_url(text: object) -> bool:
    """Whether it is a URL rather than a path; also one that pathlib has read as a path."""
    return isinstance(text, str | os.PathLike) and _URL.match(os.fsdecode(text)) is not None


def url_remedy(url: str) -> str:
    """What to do with a model's URL: pull a repository of the Hub, download anything else."""
    found = _HUB_URL.match(url)
    if found is None:
        return "download it, then give the path of the file or folder"
    return f"run `kleinod pull {shown(found[1])}`, then give {shown(found[1])}"


def shown(path: object) -> str:
    """A path as a message shows it: on one line, and cut where it is very long."""
    return printable(os.fsdecode(path) if isinstance(path, bytes) else path, limit=MAX_CHARACTERS)


def other_kind(path: str | os.PathLike[str]) -> str | None:
    """What a path is instead of a regular file: "a folder", "a named pipe", "a socket", "a device".

    None for a regular file. Raises OSError where nothing is there.
    """
    return _other_kind(os.stat(path).st_mode)


def _other_kind(mode: int) -> str | None:
    return next((words for is_kind, words in _KINDS if is_kind(mode)), None)


def open_regular_file(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened for reading. Raises OSError, also for anything else than a file."""
    _check_regular(path, os.stat(path).st_mode)
    # O_NONBLOCK: should it have become a named pipe meanwhile, opening does not wait for a writer
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except OSError:
        file.close()
        raise
    return file


def _check_regular(path: str | os.PathLike[str], mode: int) -> None:
    if kind := _other_kind(mode):
        raise OSError(errno.EINVAL, f"{kind}, not a regular file", os.fspath(path))


def expand_user(path: str | os.PathLike[str], field: str) -> Path:
    """The path with `~` expanded.

    Raises InputError for what is no path, and where there is no home folder.
    """
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        shown_value = printable(repr(path), limit=100)
        raise InputError(f"{field}: {shown_value} is not a path; give a string or a pathlib.Path")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        # "Could not determine home directory."
        reason = str(error).rstrip(".")
        raise InputError(f"{field}: {shown(path)}: {reason}; give the whole path") from None


def path_exists(path: Path, field: str) -> bool:
    """Whether something is there. Raises InputError for what may not be looked at."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        raise InputError(unreadable(path, field, error)) from error
    return True


def is_readable_file(path: Path) -> bool:
    """Whether a file is there that may be looked at; never raises."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def unreadable(path: object, field: str, error: Exception) -> str:
    """The message for a path that cannot be read."""
    reason = getattr(error, "strerror", None) or str(error)
    return f"{field}: cannot read {shown(path)} ({reason}); give a path that can be read"
