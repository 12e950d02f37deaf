"""Paths as users give them: `~`, folders that cannot be read, names that are too long.

`Path.expanduser` raises RuntimeError where there is no home, `Path.exists` OSError for what may not
be looked at. No torch in here.
"""

import os
from pathlib import Path

from kleinod.errors import InputError


def expand_user(path: str | os.PathLike[str], field: str) -> Path:
    """The path with `~` expanded. Raises InputError where there is no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        # "Could not determine home directory."
        reason = str(error).rstrip(".")
        raise InputError(f"{field}: {os.fspath(path)}: {reason}; give the whole path") from error


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
    return f"{field}: cannot read {path} ({reason}); give a path that can be read"
