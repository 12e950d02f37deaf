"""References from wherever they are: files, bytes, file objects, arrays, pictures in memory.

`open_reference` reads a file exactly once, so that its pixels and its manifest are of the same
bytes. Every mistake is an InputError of one line: `FIELD: cannot read NAME (reason); remedy`.
"""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
from PIL import Image

from kleinod import paths
from kleinod.display import printable
from kleinod.errors import InputError
from kleinod.images import decoding
from kleinod.images.decoding import FileLimits, Header, PictureError


class BinaryFile(Protocol):
    """An object with `read`, opened in binary mode."""

    def read(self, size: int = -1, /) -> bytes:
        """At most so many bytes."""


# of a path or name in a message
_MAX_NAME = 200

Source: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | BinaryFile | Image.Image"
    " | np.ndarray[Any, Any]"
)


@dataclass(frozen=True)
class ReferenceLimits(FileLimits):
    """What one reference may be; the defaults are those of the command and of Python."""

    max_bytes: int = 2**29


@dataclass(frozen=True)
class OpenedReference:
    """A reference as it looks, 8-bit sRGB, and the file that it came in, if it came in one.

    image may be smaller than the file says: see `decoding`.
    """

    image: Image.Image
    data: bytes | None = field(repr=False)
    format_name: str | None
    name: str


COMMAND_LIMITS = ReferenceLimits()
_ACCEPTED = (
    "a path, bytes, a binary file object, a PIL image, a generated image or a uint8 array "
    "(height, width, 3)"
)


def load_image(source: Source) -> Image.Image:
    """An RGB picture; the first frame of an animation, turned as EXIF says. Raises InputError.

    Colours are converted to sRGB, transparent pixels are laid over white, 16 bits become 8 at the
    same brightness. Over 16 megapixels it is reduced to between 4 and 16.
    """
    return open_reference(source).image


def open_reference(
    source: Source,
    *,
    name: str | None = None,
    limits: ReferenceLimits = COMMAND_LIMITS,
    field: str = "reference_images",
) -> OpenedReference:
    """Read a reference once: its pixels, and the bytes and format of its file. Raises InputError.

    name: what the manifest may call it; the file's name if there is one. field: what a message
    begins with.
    """
    try:
        source = _unwrapped(source)
        if isinstance(source, Image.Image | np.ndarray):
            image = decoding.to_rgb(_picture(source))
            return OpenedReference(image, None, None, name or "picture")
        data = _read(source, limits.max_bytes)
        image, header = decoding.decode(data, limits)
        return OpenedReference(image, data, header.format_name, name or _title(source))
    except PictureError as error:
        raise _refusal(error, field, _label(source, name)) from error


def check_header(data: bytes, *, limits: ReferenceLimits, field: str) -> Header:
    """Format, size and mode of a file, before anything is decoded. Raises InputError."""
    try:
        return decoding.read_header(data, limits)
    except PictureError as error:
        raise _refusal(error, field, None) from error


def _refusal(error: PictureError, field: str, label: str | None) -> InputError:
    verb = f"cannot read {label}" if label else "cannot be read"
    return InputError(f"{field}: {verb} ({error.reason}); {error.remedy}")


def read_file(path: str | os.PathLike[str], *, max_bytes: int) -> bytes:
    """A regular file whole; a pipe or a device has no end that is known. Raises PictureError."""
    try:
        with paths.open_regular_file(os.path.expanduser(path)) as file:
            return _within(file.read, max_bytes)
    except OSError as error:
        remedy = "give a picture file" if error.errno == errno.EINVAL else "check the path"
        raise PictureError(error.strerror or str(error), remedy) from error
    except ValueError as error:  # a NUL in the name
        raise PictureError(str(error)) from error


def _within(read: Callable[[int], object], max_bytes: int) -> bytes:
    data = read(max_bytes + 1)
    if not isinstance(data, bytes):
        raise PictureError("its read gives no bytes", "open the file in binary mode, 'rb'")
    if len(data) > max_bytes:
        raise PictureError(f"over the limit of {max_bytes} bytes", "make it smaller")
    return data


def _read(source: object, max_bytes: int) -> bytes:
    """The bytes of a source that is a file or holds one. Raises PictureError."""
    if paths.is_url(source):
        raise PictureError("a URL is not a file", "download it, then give the file's path")
    if isinstance(source, str | os.PathLike):
        return read_file(source, max_bytes=max_bytes)
    if isinstance(source, bytes | bytearray | memoryview):
        return _within(io.BytesIO(source).read, max_bytes)
    read = getattr(source, "read", None)
    if not callable(read):
        raise PictureError(f"{type(source).__name__} is no picture", f"give {_ACCEPTED}")
    try:
        seek = getattr(source, "seek", None)
        if callable(seek) and getattr(source, "seekable", lambda: False)():
            seek(0)
        return _within(read, max_bytes)
    except (OSError, ValueError, TypeError) as error:
        raise PictureError(f"{type(error).__name__}: {error}") from error


def _unwrapped(source: Any) -> Any:  # noqa: ANN401 - whatever the caller gave
    """The file, or the picture, of an image that kleinod generated; other sources as they are.

    Known by their attributes: their classes stand above this module. Raises PictureError.
    """
    if isinstance(source, Image.Image | np.ndarray | str | os.PathLike):
        return source
    several = getattr(source, "images", None)
    if isinstance(several, list):
        if len(several) != 1:
            raise PictureError(f"a result with {len(several)} images", "give one of its images")
        source = several[0]
    data, picture = getattr(source, "data", None), getattr(source, "image", None)
    if not isinstance(picture, Image.Image):
        return source
    return data if isinstance(data, bytes) else picture


def _picture(source: Image.Image | np.ndarray[Any, Any]) -> Image.Image:
    """Raises PictureError for an array that is no picture."""
    if isinstance(source, Image.Image):
        return source
    is_shaped = source.ndim == 2 or (source.ndim == 3 and source.shape[2] in (1, 3, 4))
    if source.dtype != np.uint8 or not is_shaped or source.size == 0:
        shape = " x ".join(map(str, source.shape))
        raise PictureError(
            f"an array of {source.dtype}, {shape}", "give uint8 of (height, width, 3), 0 to 255"
        )
    return Image.fromarray(source[..., 0] if source.shape[2:] == (1,) else source)


def _label(source: object, name: str | None) -> str | None:
    """What a message calls the source; None where it has no name."""
    if isinstance(source, str | os.PathLike):
        return printable(os.fsdecode(source), limit=_MAX_NAME)
    if name:
        return printable(name, limit=_MAX_NAME)
    return "the picture given" if isinstance(source, Image.Image) else None


def _title(source: object) -> str:
    path = source if isinstance(source, str | os.PathLike) else getattr(source, "name", None)
    return Path(path).name if isinstance(path, str | os.PathLike) else "picture"
