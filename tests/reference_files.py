"""Picture files as phones, cameras and careless programs write them, for tests of references."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

# primaries and white in XYZ of D50, as ICC profiles hold them (rX, rY, rZ, gX …), and the gamma
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2919, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE_RGB = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PRO_PHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))
D50 = (0.9642, 1.0, 0.8249)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, float, float]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _profile(space: bytes, tags: dict[bytes, bytes]) -> bytes:
    """An ICC profile, version 2.1 (ICC.1:1998-09), with a description and no more than it needs."""
    name = b"test profile\0"
    tags = {b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + bytes(79)} | tags
    table, body, start = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        data += bytes(-len(data) % 4)
        table += tag + struct.pack(">II", start + len(body), len(data))
        body += data
    size = start + len(body)
    head = struct.pack(">I4sI4s4s4s", size, bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    return (head + b"".join(map(_fixed, D50))).ljust(128, b"\0") + table + body


def rgb_profile(primaries: tuple[tuple[float, float, float], ...], gamma: float = 2.2) -> bytes:
    """Of a display or working space with these primaries."""
    tags = {b"wtpt": _xyz(D50)}
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags |= {name: _xyz(one) for name, one in zip(names, primaries, strict=True)}
    return _profile(b"RGB ", tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), _curve(gamma)))


def grey_profile(gamma: float) -> bytes:
    """Of grey levels."""
    return _profile(b"GRAY", {b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)})


def cmyk_profile() -> bytes:
    """Of inks: a table of two points a channel (lut8), whose paper is white and black is L* 20."""
    corners = np.indices((2, 2, 2, 2)).reshape(4, -1).T
    light = (1 - corners.mean(1) * 0.8) * 255
    lab = np.stack([light, np.full(16, 128), np.full(16, 128)], 1).round().astype(np.uint8)
    same = bytes(range(256))
    body = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0))
    body += b"".join(_fixed(v) for v in (1, 0, 0, 0, 1, 0, 0, 0, 1))
    tags = {b"wtpt": _xyz(D50), b"A2B0": body + same * 4 + lab.tobytes() + same * 3}
    profile = bytearray(_profile(b"CMYK", tags))
    profile[12:16], profile[20:24] = b"prtr", b"Lab "
    return bytes(profile)


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    """The bytes of a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(data: bytes, *chunks: bytes) -> bytes:
    """A PNG with chunks after its header."""
    return data[:33] + b"".join(chunks) + data[33:]


def jpeg_with(data: bytes, marker: int, body: bytes) -> bytes:
    """A JPEG with a segment after its start."""
    return data[:2] + bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body + data[2:]


def webp_with(data: bytes, kind: bytes, body: bytes) -> bytes:
    """A WebP with a chunk more at its end."""
    chunk = kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return data[:4] + struct.pack("<I", len(data) - 8 + len(chunk)) + data[8:] + chunk


def avif_with_manifest(data: bytes, body: bytes) -> bytes:
    """An AVIF with C2PA's box at its end."""
    uuid = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
    return data + struct.pack(">I", 24 + len(body)) + b"uuid" + uuid + body


def samsung_trailer() -> bytes:
    """What Samsung's cameras append: blocks, their directory, and its length."""
    block = b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1700000000000"
    directory = b"SEFH" + struct.pack("<3I", 107, 1, 0x0A010000)
    directory += struct.pack("<2I", len(block), len(block))
    return block + directory + struct.pack("<I", len(directory)) + b"SEFT"


def video() -> bytes:
    """The beginning of an MP4 file, as motion photographs have behind the picture."""
    return b"\0\0\0\x18ftypmp42\0\0\0\0isommp42" + b"\0\0\x0b\xb8mdat" + bytes(range(250)) * 12
