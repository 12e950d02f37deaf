"""Picture files for tests of what strangers send: sound ones, and some that lie."""

import base64
import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageDraw


def picture(
    mode: str = "RGB", size: tuple[int, int] = (96, 80), *, format: str = "PNG", **options: object
) -> bytes:
    """A sound file, the same at every call."""
    file = io.BytesIO()
    image = Image.new(mode, size, 300) if mode.startswith("I;16") else apple(size).convert(mode)
    image.save(file, format, **options)
    return file.getvalue()


def apple(size: tuple[int, int]) -> Image.Image:
    """A red disc with a leaf on pale blue, slightly grained so that no file of it is short."""
    width, height = size
    image = Image.new("RGB", size, "#bcd8f0")
    draw = ImageDraw.Draw(image)
    draw.ellipse((width * 0.2, height * 0.25, width * 0.8, height * 0.95), fill="#c8202a")
    draw.ellipse((width * 0.5, height * 0.08, width * 0.72, height * 0.25), fill="#3c8c3c")
    grain = np.random.default_rng(0).integers(-6, 7, (height, width, 3))
    return Image.fromarray((np.asarray(image) + grain).clip(0, 255).astype(np.uint8))


def as_base64(data: bytes) -> str:
    """As JSON holds it."""
    return base64.b64encode(data).decode()


def png(width: int, height: int, *, bits: int = 8, kind: int = 2, data: bytes = b"") -> bytes:
    """A PNG file of chosen header, its pixels compressed from data as they are."""
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(data)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, body) for name, body in chunks)


def chunk(name: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def bomb() -> bytes:
    """100 megapixels of nothing in about 100 kB."""
    return png(10_000, 10_000, bits=1, kind=0, data=bytes(10_000 * 1251))


def text_bomb() -> bytes:
    """A small picture with a comment of 64 MB when it is unpacked."""
    sound = picture()
    comment = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(64 * 2**20), 9))
    return sound[:33] + comment + sound[33:]


def polyglots() -> dict[str, bytes]:
    """Pictures that are something else, too."""
    tails = {
        "zip": b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18),
        "html": b"<html><script>alert(1)</script></html>",
        "pdf": b"%PDF-1.7\n%%EOF",
        "php": b"<?php system($_GET['c']); ?>",
    }
    heads = {format: picture(format=format) for format in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")}
    return {f"{f}+{t}": head + tail for f, head in heads.items() for t, tail in tails.items()}


def odd_modes() -> dict[str, bytes]:
    """Files of formats or modes that no camera and no browser writes."""
    return {
        "tiff float": picture("F", format="TIFF"),
        "tiff integers": picture("I", format="TIFF"),
        "tiff lab": picture("LAB", format="TIFF"),
        "tiff cmyk": picture("CMYK", format="TIFF"),
        "bmp": picture(format="BMP"),
        "ppm": picture(format="PPM"),
        "eps": picture(format="EPS"),
        "ico": picture(format="ICO"),
        "tga": picture(format="TGA"),
        "pcx": picture(format="PCX"),
        "sgi": picture(format="SGI"),
        "pdf": picture(format="PDF"),
        "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100"/>',
    }
