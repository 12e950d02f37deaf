"""Where pictures go: names, the check that they can be written, and writing them whole or not.

A name that the user gave in full is overwritten; no other file ever is.
"""

import errno
import hashlib
import itertools
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from kleinod import fileio
from kleinod.errors import InputError
from kleinod.provenance.container import FORMATS


@dataclass(frozen=True)
class Destination:
    """A folder, and the file in it if the user named one."""

    folder: Path
    file_name: str | None = None

    def path(self, seed: int, *, index: int, count: int) -> Path:
        """The path of picture `index` (from 0) of `count`."""
        if self.file_name is None:
            return _free(self.folder / f"kleinod-{seed}.png", 1)
        if count == 1:
            return self.folder / self.file_name
        return _free(self.folder / self.file_name, index + 1, always_numbered=True)


def destination(output: Path | None) -> Destination:
    """Where the user wants the pictures; a name without a suffix is a folder. Raises InputError."""
    try:
        chosen = _chosen(output or Path())
        _probe(chosen)
    except OSError as error:
        raise InputError(_unwritable(output or Path(), error)) from error
    return chosen


def receipt_destination(path: Path) -> Destination:
    """Where the user wants the receipts. Raises InputError."""
    if path.suffix.lower() != ".json" or path.is_dir():
        raise InputError(f"receipt: {path} is no .json file; name one, such as receipt.json")
    chosen = Destination(path.parent, path.name)
    try:
        _probe(chosen)
    except OSError as error:
        raise InputError(_unwritable(path, error).replace("output", "receipt", 1)) from error
    return chosen


def _chosen(output: Path) -> Destination:
    if output.is_dir():
        return Destination(output)
    if output.suffix.lower() in FORMATS:
        return Destination(output.parent, output.name)
    if output.suffix or output.exists():
        endings = ", ".join(FORMATS)
        raise InputError(f"output: {output} is neither folder nor picture; end it in {endings}")
    return Destination(output)


def _probe(chosen: Destination) -> None:
    """Raise OSError if no file could be made there, without leaving one."""
    folder = chosen.folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass
    target = chosen.folder / (chosen.file_name or "")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _unwritable(path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"output: cannot write {path} ({reason}); choose another place"


def _free(path: Path, number: int, *, always_numbered: bool = False) -> Path:
    """The path itself if nothing is there, else with the first free number from `number` on."""
    if not always_numbered and not os.path.lexists(path):
        return path
    first = number if always_numbered else number + 1
    names = (path.with_stem(f"{path.stem}-{n}") for n in itertools.count(first))
    return next(name for name in names if not os.path.lexists(name))


def write(path: Path, data: bytes) -> str:
    """Write a file whole or not at all; its SHA-256. Raises InputError."""
    try:
        fileio.write_atomic(path, data)
    except OSError as error:
        raise InputError(_unwritable(path, error)) from error
    return hashlib.sha256(data).hexdigest()
