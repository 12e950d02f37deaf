"""Where pictures go: names, the check that they can be written, and writing them whole or not.

A name that the user gave in full is overwritten; no other file ever is, even where several runs
write into one folder at once. `-` is standard output.
"""

import errno
import itertools
import os
import secrets
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kleinod import fileio
from kleinod.errors import InputError
from kleinod.paths import expand_user, other_kind, shown
from kleinod.provenance.container import FORMATS

STANDARD_OUTPUT = Path("-")


@dataclass(frozen=True)
class Destination:
    """A folder, and the file in it if the user named one; or standard output."""

    folder: Path
    file_name: str | None = None
    field: str = "output"
    is_standard_output: bool = False

    @property
    def suffix(self) -> str:
        """What the files' names end in."""
        return Path(self.file_name or "x.png").suffix.lower()

    def missing_folder(self) -> Path | None:
        """The folder that writing will create; None where it is there."""
        return None if self.is_standard_output or self.folder.exists() else self.folder

    def write(self, data: bytes, *, seed: int, index: int, count: int) -> Path:
        """Write file `index` (from 0) of `count`, whole or not at all; its path.

        Raises InputError.
        """
        path = self.folder / (self.file_name or f"kleinod-{seed}.png")
        try:
            if self.is_standard_output:
                return _write_standard_output(data)
            if self.file_name is not None and count == 1:
                return _overwrite(path, data)
            return _write_new(self._names(path, index), data)
        except OSError as error:
            raise InputError(_unwritable(self.field, path, error)) from error

    def _names(self, path: Path, index: int) -> Iterator[Path]:
        """Names to try in order: of a given name the numbered ones, else also the plain one."""
        if self.file_name is None:
            yield path
        first = 2 if self.file_name is None else index + 1
        for number in itertools.count(first):
            yield path.with_stem(f"{path.stem}-{number}")


def destination(output: Path | None, *, count: int = 1) -> Destination:
    """Where the user wants the pictures; a name without a suffix is a folder. Raises InputError."""
    if output == STANDARD_OUTPUT:
        return _standard_output(count)
    path = expand_user(output or Path(), "output")
    try:
        chosen = _chosen(path)
        _probe(chosen)
    except OSError as error:
        raise InputError(_unwritable("output", path, error)) from error
    return chosen


def report_created(folders: Iterable[Path | None]) -> None:
    """Say on stderr which folders, missing before, are there now: a name may be mistyped."""
    for folder in dict.fromkeys(folders):
        if folder is not None and folder.is_dir():
            print(f"created folder {shown(folder)}", file=sys.stderr)


def receipt_destination(path: Path) -> Destination:
    """Where the user wants the receipts. Raises InputError."""
    path = expand_user(path, "receipt")
    try:
        if path.suffix.lower() != ".json" or path.is_dir():
            raise InputError(f"receipt: {shown(path)} must be a .json file, such as receipt.json")
        chosen = Destination(path.parent, path.name, "receipt")
        _probe(chosen)
    except OSError as error:
        raise InputError(_unwritable("receipt", path, error)) from error
    return chosen


def _standard_output(count: int) -> Destination:
    if count > 1:
        raise InputError(f"output: {count} images do not fit into standard output; give a folder")
    if sys.stdout.isatty():
        raise InputError("output: - is a terminal; redirect it to a file or a program, or name one")
    return Destination(Path(), "-.png", is_standard_output=True)


def _chosen(output: Path) -> Destination:
    if output.is_dir():
        return Destination(output)
    if output.suffix.lower() in FORMATS:
        return Destination(output.parent, output.name)
    if output.suffix or output.exists():
        endings = ", ".join(FORMATS)
        raise InputError(
            f"output: {shown(output)} is neither a folder nor a picture file; end it in {endings}"
        )
    return Destination(output)


def _probe(chosen: Destination) -> None:
    """Raise OSError if no file could be made there, without leaving one."""
    folder = chosen.folder
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    with tempfile.TemporaryFile(dir=folder):
        pass
    target = chosen.folder / (chosen.file_name or "")
    if chosen.file_name is not None and target.exists() and (kind := other_kind(target)):
        raise OSError(errno.EINVAL, f"{kind}, not a regular file")
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    # elsewhere than on POSIX the file system says so itself
    longest = os.pathconf(folder, "PC_NAME_MAX") if hasattr(os, "pathconf") else 255
    if len(os.fsencode(target.name)) > longest:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _unwritable(field: str, path: Path, error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{field}: cannot write {shown(path)} ({reason}); choose another place"


def _write_standard_output(data: bytes) -> Path:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    return STANDARD_OUTPUT


def _overwrite(path: Path, data: bytes) -> Path:
    """A link is written through."""
    fileio.write_atomic(path, data)
    return path


def _write_new(names: Iterator[Path], data: bytes) -> Path:
    """Under the first name that is free at the moment of writing: no file is ever replaced."""
    first = next(names)
    part = _write_part(first.parent, data)
    try:
        for path in itertools.chain([first], names):
            if _place(part, path):
                return path
    finally:
        part.unlink(missing_ok=True)
    raise AssertionError("names never end")


def _place(part: Path, path: Path) -> bool:
    """Give a file its name unless the name is taken."""
    try:
        os.link(part, path)
    except FileExistsError:
        return False
    except OSError:
        # a file system without hard links: reserve the name, then put the file there
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        os.replace(part, path)
    return True


def _write_part(folder: Path, data: bytes) -> Path:
    fileio.create_folder(folder)
    part = folder / f".kleinod-{secrets.token_hex(8)}.part"
    try:
        part.write_bytes(data)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    return part
