"""Where a picture file ends, and what may follow it: padding, and what phones append.

A file that is kept ends where its last picture ends, so that none is a picture and something else
at once. What phones and mail programs append is cut off; a web page, an archive or a program
behind a picture is no accident, and the file is refused.
"""

import struct

_PNG_HEAD, _PNG_CHUNK = b"\x89PNG\r\n\x1a\n", struct.Struct(">I4s")
_JPEG_HEAD = b"\xff\xd8\xff"
# NUL and 0xFF, as memory cards and cameras pad, and the line breaks of forms written by hand
_PADDING = b"\0\xff \t\r\n"
# how what is opened or run by something else than a picture viewer begins
_DISGUISES = (
    *(b"<", b"#!", b"%PDF", b"PK\x03\x04", b"PK\x05\x06", b"MZ", b"\x7fELF", b"Rar!", b"7z\xbc"),
    *(b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\xca\xfe\xba\xbe", b"\xcf\xfa\xed\xfe", b"{\\rtf"),
    *(b"\xd0\xcf\x11\xe0", b"ITSF", b"\0asm", b"SQLite", b"MSCF", b"Cr24", b"\xef\xbb\xbf<"),
)
# a zip is read from its end: its directory's last record, and up to 64 KiB of comment
_ZIP_END, _ZIP_END_BYTES = b"PK\x05\x06", 22 + 2**16
# boxes of Samsung and Google behind an AVIF: settings, and the seconds before it as a video
_PHONE_BOXES = (b"sefd", b"mpvd")
_AVIF_BOXES = (b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"uuid", b"mini", b"idat")


def trim(data: bytes) -> bytes:
    """The file up to its last picture's end. Raises ValueError with the reason."""
    try:
        end = _end(data)
    except (struct.error, IndexError) as error:
        raise ValueError("its file has no proper end") from error
    if data.startswith(_JPEG_HEAD):
        end = _last_jpeg_end(data, end)
    rest = data[end:].lstrip(_PADDING)
    if rest and not _is_trailer(rest, is_jpeg=data.startswith(_JPEG_HEAD)):
        raise ValueError(f"holds {len(data) - end} bytes after the picture's end")
    return data[:end]


def _last_jpeg_end(data: bytes, end: int) -> int:
    """Cameras append previews, depth and gain maps as whole JPEG files."""
    while True:
        start = len(data) - len(data[end:].lstrip(_PADDING[:1]))
        if not data.startswith(_JPEG_HEAD, start):
            return end
        try:
            end = start + _jpeg_end(data[start:])
        except (struct.error, IndexError):  # a cut one
            return end


def _is_trailer(rest: bytes, *, is_jpeg: bool) -> bool:
    """Whether this is what a phone appends; of JPEGs, makers append data of every kind."""
    if rest.startswith(_DISGUISES) or _ZIP_END in rest[-_ZIP_END_BYTES:]:
        return False
    is_samsung = b"SEFH" in rest and rest.rstrip(_PADDING).endswith(b"SEFT")
    return is_jpeg or is_samsung or rest[4:8] in _PHONE_BOXES


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
    while position + 8 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, position)
        if kind not in _AVIF_BOXES:
            return position
        if length == 0:
            return len(data)
        if length == 1:
            length = struct.unpack_from(">Q", data, position + 8)[0]
        if length < 8:
            return position
        position += length
    return position
