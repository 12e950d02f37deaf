"""From a file's bytes to 8-bit sRGB: one picture at a time, never with gigabytes of memory.

    format by the first bytes ── header, limits ── decode (JPEG: at a fraction) ── sRGB ── turn

The pixels count: metadata that cannot be read are left aside. What is over `FULL_PIXELS` comes out
smaller, at `KEPT_PIXELS` or up to four times that; the model sees one megapixel at most.
Pillow's own limit is not asked: it knows neither formats nor fractions, and warns for a process.
"""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from kleinod.images import color, formats

FULL_PIXELS, KEPT_PIXELS = 2**24, 2**22
# What Pillow's decoders raise on files that lie, besides OSError (tests/test_images.py).
BROKEN_FILE = (
    *(OSError, SyntaxError, ValueError, TypeError, EOFError, MemoryError, RuntimeError),
    *(LookupError, ArithmeticError, AttributeError, AssertionError, struct.error, zlib.error),
    *(Image.DecompressionBombError, Image.DecompressionBombWarning),
)
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# PNG's chunks that pixels need (PNG, third edition, table 7)
_PIXEL_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
Result = TypeVar("Result")
_BAND_PIXELS = 2**22
# bounds memory, and Python's warning filters belong to the whole process
_ONE_AT_A_TIME = threading.RLock()


class PictureError(Exception):
    """Why a picture cannot be read, and what to do; becomes an InputError that names the field."""

    def __init__(self, reason: str, remedy: str = "give a whole picture file") -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Header:
    """What a picture file says of itself; its size before it is turned."""

    format_name: str
    mode: str
    width: int
    height: int

    @property
    def num_pixels(self) -> int:
        """Width times height."""
        return self.width * self.height

    @property
    def num_decoded_pixels(self) -> int:
        """How many are in memory at once: JPEG's decoder shrinks, the others do not."""
        factor = _factor(self.num_pixels) if self.format_name == "JPEG" else 1
        return self.num_pixels // factor**2


@dataclass(frozen=True)
class FileLimits:
    """What is decoded: formats, pixels over the formats' own limits, modes (None: all)."""

    formats: tuple[str, ...] = (*formats.FORMATS, *formats.PLUGINS)
    max_pixels: int = 2**29
    modes: frozenset[str] | None = None


def read_header(data: bytes, limits: FileLimits) -> Header:
    """Format, mode and size, nothing decoded, within the limits. Raises PictureError."""

    def read(data: bytes) -> Header:
        with _opened(data, limits) as opened:
            return _checked(opened, data, limits)

    with _quiet():
        return _pixels_first(data, read)


def decode(data: bytes, limits: FileLimits) -> tuple[Image.Image, Header]:
    """8-bit sRGB, turned as EXIF says, the first frame of an animation. Raises PictureError."""
    with _quiet():
        return _pixels_first(data, lambda data: _decoded(data, limits))


@contextmanager
def open_file(data: bytes, limits: FileLimits = FileLimits()) -> Iterator[ImageFile]:
    """The picture file as Pillow has it, not decoded, for its metadata. Raises PictureError."""
    with _quiet(), _pixels_first(data, lambda data: _opened(data, limits)) as opened:
        yield opened


def _pixels_first(data: bytes, read: Callable[[bytes], Result]) -> Result:
    """Read the file, without its metadata if they are what Pillow fails at."""
    try:
        return read(data)
    except BROKEN_FILE as error:
        bare = _without_metadata(data) if _may_be_metadata(error) else data
        if bare != data:
            try:
                return read(bare)
            except BROKEN_FILE:
                pass
        raise PictureError(_reason(error, data)) from error


def to_rgb(image: Image.Image) -> Image.Image:
    """A picture that is open already, likewise; it is left as it was. Raises PictureError."""
    with _quiet():
        try:
            image.load()
            return _finished(image)
        except BROKEN_FILE as error:
            raise PictureError(_reason(error)) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """One at a time, without Pillow's warnings of metadata and of many pixels."""
    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _opened(data: bytes, limits: FileLimits) -> ImageFile:
    name = formats.format_of(data)
    if name is None:
        kind = formats.kind_of(data)
        readable = ", ".join(n for n in limits.formats if n in formats.FORMATS)
        reason = f"not a whole file of {readable}"
        raise PictureError(f"{kind}, {reason}" if kind else reason, "save it as one")
    if name in formats.PLUGINS:
        _load_plugin(name, limits)
    elif name not in limits.formats:
        readable = ", ".join(n for n in limits.formats if n in formats.FORMATS)
        raise PictureError(f"a {name} file, not a whole file of {readable}", "save it as one")
    formats.has_decoder(name)
    if name == "JPEG":
        # not Pillow's own choice, which may be MPO: the first picture is the picture
        from PIL.JpegImagePlugin import JpegImageFile

        return JpegImageFile(io.BytesIO(data), "")
    opened: ImageFile = Image.OPEN[name][0](io.BytesIO(data), "")
    return opened


def _load_plugin(name: str, limits: FileLimits) -> None:
    """Raise PictureError where a format is not read here, or only with a package more."""
    words, _, package = formats.PLUGINS[name]
    if name not in limits.formats:
        raise PictureError(words, "save it as JPEG or PNG")
    if not formats.has_decoder(name):
        raise PictureError(words, f"pip install {package}, or save it as JPEG")


def _checked(opened: ImageFile, data: bytes, limits: FileLimits) -> Header:
    name = formats.format_of(data)
    assert name is not None
    header = Header(name, opened.mode, *opened.size)
    most = min(formats.MAX_PIXELS[name], limits.max_pixels)
    if name == "JPEG":
        num_scans = data.count(b"\xff\xda")
        if _has_several_scans(data):
            times = formats.MAX_PIXELS_TIMES_SCANS // num_scans
            most = min(most, formats.MAX_SCANS_PIXELS, times)
    if header.num_pixels > most:
        size = f"{header.width}x{header.height}"
        raise PictureError(f"too many pixels: {size} is over the limit of {most}", "shrink it")
    if limits.modes is not None and header.mode not in limits.modes:
        raise PictureError(f"its colour mode {header.mode} is unusual", "save it as RGB")
    return header


def _has_several_scans(data: bytes) -> bool:
    """Whether a JPEG is progressive, or stores its colours one after the other (T.81, B.2)."""
    position, num_colors = 2, 1
    while position + 10 <= len(data):
        if data[position] != 0xFF or data[position + 1] == 0xFF:
            position += 1
            continue
        marker = data[position + 1]
        if marker == 0xDA:
            return data[position + 4] < num_colors
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            num_colors = data[position + 9]
            if marker in (0xC2, 0xC6, 0xCA, 0xCE):
                return True
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
    return False


def _decoded(data: bytes, limits: FileLimits) -> tuple[Image.Image, Header]:
    with _opened(data, limits) as opened:
        header = _checked(opened, data, limits)
        factor = _factor(header.num_pixels)
        if header.format_name == "JPEG" and factor > 1:
            opened.draft(None, (header.width // factor, header.height // factor))
        opened.load()
        return _finished(opened), header


def _factor(num_pixels: int) -> int:
    """By how much the sides are shrunk: a power of two, as JPEG's decoder has it, up to 8."""
    if num_pixels <= FULL_PIXELS:
        return 1
    return next((f for f in (8, 4) if num_pixels // f**2 >= KEPT_PIXELS), 2)


def _finished(image: Image.Image) -> Image.Image:
    """In sRGB, not too large, turned as EXIF says."""
    factor = _factor(image.width * image.height)
    rgb = color.to_rgb(image) if factor == 1 else _reduced(image, factor)
    transposition = _TRANSPOSITIONS.get(_orientation(image))
    return rgb if transposition is None else rgb.transpose(transposition)


def _reduced(image: Image.Image, factor: int) -> Image.Image:
    """In sRGB, its sides divided by the factor: band by band, so that no second one is needed."""
    small = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    image = color.to_grey(image)
    rows = max(1, _BAND_PIXELS // image.width // factor) * factor
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        small.paste(color.to_rgb(band).reduce(factor), (0, top // factor))
    return small


def _orientation(image: Image.Image) -> int:
    """EXIF's number from 1 to 8; 1, unturned, where the metadata cannot be read."""
    try:
        stated = image.getexif().get(ExifTags.Base.Orientation, 1)
    except BROKEN_FILE:
        return 1
    return stated if isinstance(stated, int) else 1


def _may_be_metadata(error: BaseException) -> bool:
    """Whether a chunk beside the pixels may be at fault; what unpacks to megabytes is no slip."""
    is_bomb = str(error).startswith(("Decompressed data too large", "Too much memory"))
    return isinstance(error, SyntaxError | ValueError | LookupError | struct.error) and not is_bomb


def _without_metadata(data: bytes) -> bytes:
    """A PNG of the chunks that its pixels need; other formats as they are."""
    if formats.format_of(data) != "PNG":
        return data
    position, kept = 8, [data[:8]]
    while position + 12 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        end = position + 12 + length
        if data[position + 4 : position + 8] in _PIXEL_CHUNKS:
            kept.append(data[position:end])
        position = end
    return b"".join(kept)


def _reason(error: BaseException, data: bytes = b"") -> str:
    """The decoder's words where it has some for people."""
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    words = " ".join(str(error).split())[:200]
    if words and isinstance(error, OSError | ValueError):
        return words
    kind = f"not a whole file of {formats.format_of(data) or 'its format'}"
    # a syntax error with a cause is one of Pillow's own accidents, in Python's words
    is_clear = isinstance(error, SyntaxError) and words and error.__cause__ is None
    return f"{kind}: {words}" if is_clear else kind
