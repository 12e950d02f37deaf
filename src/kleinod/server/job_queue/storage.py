"""Pictures by name: a folder, or any store that fsspec knows. Whole or not at all. It blocks."""

import contextlib
import logging
import secrets
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from kleinod import fileio
from kleinod.errors import InputError

# waits before a picture is written again
RETRY_SECONDS = (0.5, 2.0)

_log = logging.getLogger(__name__)


class Storage:
    """Bytes under names such as `results/JOB/0.png`. Raises InputError for a URL of no kind.

    A store that cannot be reached is an OSError, whatever its package raises.
    """

    def __init__(self, url: str) -> None:
        try:
            # other servers write there, too: what a listing said once is not true for ever
            self._files, self._root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise InputError(f"storage_url: {url}: {error}") from error
        self._folder = Path(self._root) if isinstance(self._files, LocalFileSystem) else None

    def check(self) -> None:
        """Write, read and remove something. Raises InputError."""
        name, data = f"check-{secrets.token_hex(8)}", b"kleinod"
        try:
            self.write(name, data)
            is_same = self.read(name) == data
            self.remove(name)
        except Exception as error:  # a store may raise anything; the user must see what
            raise InputError(f"storage_url: {self._root} cannot be written ({error})") from error
        if not is_same:
            raise InputError(f"storage_url: {self._root} gives back other bytes than it was given")

    def write(self, name: str, data: bytes) -> None:
        """Put data there, over what was there."""
        if self._folder is not None:
            _write_file(self._folder / name, data)
        else:
            # object stores show an object only once it is whole
            with _told_as_os_error():
                self._files.pipe_file(self._path(name), data)

    def write_surely(self, name: str, data: bytes) -> None:
        """Write, again after a pause where the store fails: a picture took long to paint."""
        for pause in RETRY_SECONDS:
            try:
                self.write(name, data)
            except OSError as error:
                _log.warning("storage: %s is not written (%s); trying again", name, error)
                time.sleep(pause)
            else:
                return
        self.write(name, data)

    def read(self, name: str) -> bytes | None:
        """What was written; None if nothing is there."""
        with contextlib.suppress(FileNotFoundError), _told_as_os_error():
            data: bytes = self._files.cat_file(self._path(name))
            return data
        return None

    def remove(self, name: str) -> None:
        """Remove a file, or all below a folder's name; nothing there is no error."""
        with contextlib.suppress(FileNotFoundError), _told_as_os_error():
            self._files.rm(self._path(name), recursive=True)

    def _path(self, name: str) -> str:
        return f"{str(self._root).rstrip('/')}/{name}"


@contextlib.contextmanager
def _told_as_os_error() -> Iterator[None]:
    try:
        yield
    except OSError:
        raise
    except Exception as error:  # each store's package has its own
        raise OSError(f"storage: {error}") from error


def _write_file(path: Path, data: bytes) -> None:
    """Through another name in the same folder, on the disk before it has its own."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    fileio.write_atomic(path, data, sync=True)
