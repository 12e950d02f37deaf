"""Pictures that strangers send: only whole files of few formats, of ordinary modes, within limits.

A file is kept as it came, so that its own manifest can be an ingredient, up to the picture's end;
it is decoded once to know that it can be. Refused before a pixel is decoded: what is too large,
what is something else, too (a polyglot), what has a mode that no camera and no browser writes.
"""

import base64
import binascii
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from kleinod import images
from kleinod.errors import InputError
from kleinod.images import Header, ReferenceLimits
from kleinod.server.job_queue.job import Refused
from kleinod.server.untrusted import file_ends

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"})
# a picture of the largest size takes about a second
_RETRY_AFTER_SECONDS = 2
# a parameter may hold a file's name, with spaces and commas in it
_DATA_URL = re.compile(r"data:([^;,]*)(?:;.*)?(;\s*base64\s*),|data:([^;,]*)[^,]*,", re.IGNORECASE)
_MAX_HEAD_CHARACTERS = 1000
# "" is what FileReader writes for a type that it does not know
_PICTURE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")


@dataclass(frozen=True)
class PictureLimits:
    """What one picture may have, all of a request together, and all of a server at once.

    The last two count pixels as they are decoded.
    """

    max_bytes: int
    max_pixels: int
    max_request_pixels: int = 2**27
    max_decoding_pixels: int = 2**28

    def for_reading(self) -> ReferenceLimits:
        """With the formats and modes that strangers' pictures may have."""
        return ReferenceLimits(FORMATS, self.max_pixels, MODES, self.max_bytes)


@dataclass(frozen=True)
class Picture:
    """A file that is a picture, and its size in pixels."""

    data: bytes
    width: int
    height: int


def decoded_text(text: str, name: str, *, max_bytes: int) -> bytes:
    """The bytes of a data URL or of base64 in either alphabet. Raises InputError."""
    if text[:5].lower() == "data:":
        return _of_data_url(text, name, max_bytes)
    return _of_base64(text, name, max_bytes)


def _of_data_url(text: str, name: str, max_bytes: int) -> bytes:
    head = _DATA_URL.match(text[:_MAX_HEAD_CHARACTERS])
    kind = (head[1] or head[3] or "").strip().lower() if head else "none"
    if head is None or (kind and not kind.startswith(_PICTURE_TYPES)):
        raise InputError(
            f"{name}: its data URL is no picture's; begin it with data:image/png;base64,"
        )
    rest = text[head.end() :]
    if head[2] and "%" not in rest:
        return _of_base64(rest, name, max_bytes)
    data = unquote_to_bytes(rest)
    if head[2]:
        return _of_base64(data.decode("latin-1"), name, max_bytes)
    _check_bytes(len(data), name, max_bytes)
    return data


def _of_base64(text: str, name: str, max_bytes: int) -> bytes:
    letters = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    _check_bytes(len(letters) * 3 // 4, name, max_bytes)
    if not letters:
        raise InputError(f"{name}: is empty; give a picture as base64, data URL or http(s) URL")
    try:
        return base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(
            f"{name}: is neither base64 nor a data or http(s) URL; give a whole picture file"
        ) from error


def _check_bytes(count: int, name: str, max_bytes: int) -> None:
    if count > max_bytes:
        raise InputError(
            f"{name}: {count} bytes are over the limit of {max_bytes}; make it smaller"
        )


class _InFlight:
    """Decoded pixels of all requests that are being looked at in this process."""

    def __init__(self) -> None:
        self._lock, self._num_pixels = threading.Lock(), 0

    @contextmanager
    def hold(self, num_pixels: int, most: int) -> Iterator[None]:
        """Raise Refused where others take so many that these are too many; one alone may."""
        with self._lock:
            if self._num_pixels and self._num_pixels + num_pixels > most:
                raise Refused(
                    f"reference pictures of {self._num_pixels} pixels are being decoded; with "
                    f"these they would be over the limit of {most}",
                    retry_after_seconds=_RETRY_AFTER_SECONDS,
                )
            self._num_pixels += num_pixels
        try:
            yield
        finally:
            with self._lock:
                self._num_pixels -= num_pixels


_IN_FLIGHT = _InFlight()


def check_all(files: Sequence[tuple[str, bytes]], *, limits: PictureLimits) -> tuple[Picture, ...]:
    """The pictures of a request by their fields' names, decoded one after the other.

    Raises InputError; Refused where the server is decoding too many for other requests.
    """
    total = 0
    for name, data in files:
        header = _header(data, name, limits)
        total += header.num_decoded_pixels
        if total > limits.max_request_pixels:
            raise InputError(
                f"{name}: the pictures of this request have over {limits.max_request_pixels} "
                "pixels together, the limit; make them smaller"
            )
    with _IN_FLIGHT.hold(total, limits.max_decoding_pixels):
        return tuple(check(data, name, limits=limits) for name, data in files)


def _header(data: bytes, name: str, limits: PictureLimits) -> Header:
    _check_bytes(len(data), name, limits.max_bytes)
    return images.check_header(data, limits=limits.for_reading(), field=name)


def check(data: bytes, name: str, *, limits: PictureLimits) -> Picture:
    """A whole picture within the limits, without what follows its end. Raises InputError."""
    _header(data, name, limits)
    try:
        data = file_ends.trim(data)
    except ValueError as error:
        raise InputError(f"{name}: {error}; save it again") from error
    opened = images.open_reference(data, limits=limits.for_reading(), field=name)
    try:
        images.prepared_size(*opened.image.size)
    except InputError as error:
        raise InputError(str(error).replace("reference_images", name, 1)) from error
    return Picture(data, *opened.image.size)
