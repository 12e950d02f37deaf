"""Pictures that strangers send: only whole files of few formats, of ordinary modes, within limits.

A file is kept as it came, so that its own manifest can be an ingredient; it is decoded once to
know that it can be. Refused before a pixel is decoded: what is too large, what is not a picture
from its first to its last byte (a polyglot), what has a mode that no camera and no browser writes.
"""

import base64
import binascii
import io
import re
import struct
import threading
import warnings
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from PIL import Image

from kleinod import images
from kleinod.errors import InputError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "AVIF")
MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "I;16"})
# a parameter may hold a file's name, with spaces and commas in it
_DATA_URL = re.compile(r"data:([^;,]*)(?:;.*)?(;\s*base64\s*),|data:([^;,]*)[^,]*,", re.IGNORECASE)
_MAX_HEAD_CHARACTERS = 1000
# "" is what FileReader writes for a type that it does not know
_PICTURE_TYPES = ("image/", "application/octet-stream", "binary/octet-stream")
_PNG_HEAD, _PNG_CHUNK = b"\x89PNG\r\n\x1a\n", struct.Struct(">I4s")
_JPEG_HEAD = b"\xff\xd8\xff"
# bounds memory, and Python's warning filters belong to the whole process
_ONE_AT_A_TIME = threading.Lock()


@dataclass(frozen=True)
class PictureLimits:
    """What one picture may have."""

    max_bytes: int
    max_pixels: int


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


def check(data: bytes, name: str, *, limits: PictureLimits) -> Picture:
    """The file as a checked picture. Raises InputError. Blocks as long as decoding takes."""
    _check_bytes(len(data), name, limits.max_bytes)
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are judged here, the rest by decoding
        _check_head(data, name, limits.max_pixels)
        _check_end(data, name)
        picture = _loaded(data, name)
    try:
        images.prepared_size(*picture.size)
    except InputError as error:
        raise InputError(str(error).replace("reference_images", name, 1)) from error
    return Picture(data, *picture.size)


def _check_head(data: bytes, name: str, max_pixels: int) -> None:
    """Format, size and mode, from the header alone."""
    formats = ", ".join(FORMATS)
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
            size, mode = opened.size, opened.mode
    except images.BROKEN_FILE as error:
        if isinstance(error, Image.DecompressionBombError):
            raise InputError(f"{name}: has too many pixels; at most {max_pixels}") from error
        raise InputError(f"{name}: is not a whole file of {formats}; save it as one") from error
    if size[0] * size[1] > max_pixels:
        raise InputError(
            f"{name}: {size[0]}x{size[1]} is over the limit of {max_pixels} pixels; shrink it"
        )
    if mode not in MODES:
        raise InputError(f"{name}: its colour mode {mode} is unusual; save it as RGB")


def _loaded(data: bytes, name: str) -> Image.Image:
    try:
        return images.load_image(Image.open(io.BytesIO(data), formats=FORMATS))
    except InputError as error:
        message = str(error).replace("reference_images: cannot read the picture given", name, 1)
        raise InputError(message.replace(f"{name} (", f"{name}: cannot be read (", 1)) from error


def _check_end(data: bytes, name: str) -> None:
    """Refuse what goes on after the picture's end: a file that is two things at once."""
    try:
        end = _end(data)
    except (struct.error, IndexError) as error:
        raise InputError(f"{name}: its file has no proper end; save it again") from error
    rest = data[end:].lstrip(b"\0")
    # cameras append a depth map or a smaller copy, as whole JPEG files
    is_second = data.startswith(_JPEG_HEAD) and rest.startswith(_JPEG_HEAD)
    if rest and not is_second:
        raise InputError(
            f"{name}: holds {len(data) - end} bytes after the picture's end; save it again"
        )


def _end(data: bytes) -> int:
    """Where the picture ends. Raises struct.error and IndexError."""
    if data.startswith(_PNG_HEAD):
        return _png_end(data)
    if data.startswith(_JPEG_HEAD):
        return _jpeg_end(data)
    if data.startswith(b"RIFF"):
        size: int = struct.unpack_from("<I", data, 4)[0]
        return 8 + size + size % 2
    if data.startswith(b"GIF8"):
        return _gif_end(data)
    return _boxes_end(data)


def _png_end(data: bytes) -> int:
    position, kind = len(_PNG_HEAD), b""
    while kind != b"IEND":
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        position += _PNG_CHUNK.size + length + 4
    return position


def _jpeg_end(data: bytes) -> int:
    """Segments have lengths; a scan goes on until a marker that is no restart and no stuffing."""
    position = 2
    while True:
        while data[position] == 0xFF and data[position + 1] == 0xFF:
            position += 1
        marker = data[position + 1]
        if marker == 0xD9:
            return position + 2
        position += 2 + int(struct.unpack_from(">H", data, position + 2)[0])
        if marker == 0xDA:
            position = _scan_end(data, position)


def _scan_end(data: bytes, position: int) -> int:
    while True:
        position = data.find(b"\xff", position)
        if position < 0:
            raise IndexError(position)
        following = data[position + 1]
        if following != 0 and not 0xD0 <= following <= 0xD7 and following != 0xFF:
            return position
        position += 1 if following == 0xFF else 2


def _gif_end(data: bytes) -> int:
    """Header, colour table, then blocks of sub-blocks up to the trailer."""
    position = 13 + _table_bytes(data[10])
    while position < len(data) and data[position] != 0x3B:
        if data[position] == 0x2C:
            position += 10 + _table_bytes(data[position + 9]) + 1
        elif data[position] == 0x21:
            position += 2
        else:
            raise IndexError(position)
        while data[position]:
            position += 1 + data[position]
        position += 1
    return position + 1  # some writers leave the trailer out


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _boxes_end(data: bytes) -> int:
    """AVIF: boxes one after the other; the first that is no known one begins something else."""
    position = 0
    known = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"mini", b"idat")
    while position + 8 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        if kind not in known:
            return position
        if length == 0:
            return len(data)
        if length == 1:
            length = struct.unpack_from(">Q", data, position + 8)[0]
        if length < 8:
            return position
        position += length
    return position
