"""The frame of our own manifests: each byte around the signed statements is as always written.

C2PA's signature covers the claim, the claim's hashes cover the statements and the picture. What is
left are lengths, names and fillings: JUMBF boxes (ISO 19566-5), the filling of the COSE signature,
and what carries them: PNG's caBX, JPEG's APP11, WebP's C2PA chunk, AVIF's uuid box. A byte of these
says nothing, but a changed one must be seen, too. Other programs may write theirs otherwise: this
is asked of manifests that kleinod has signed only.
"""

import base64
import hashlib
import zlib
from collections.abc import Iterator, Mapping

_SUFFIX = bytes.fromhex("00110010800000aa00389b71")
_C2PA_UUID = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
_SIGNED_PARTS = (
    (b"c2as", b"c2pa.assertions"),
    (b"c2cl", b"c2pa.claim.v2"),
    (b"c2cs", b"c2pa.signature"),
)
# segments of a JPEG up to the scan: APP11, and where their box instance number starts
_APP11, _BOX_INSTANCE = b"\xff\xeb", b"JP\x02\x11"


class _OddError(ValueError):
    """Something is not as it is always written."""


def is_as_written(data: bytes, format_name: str, *, hashes: Mapping[str, str]) -> bool:
    """Whether the frame of the last manifest in a picture file is as we write it.

    The others, of references, are only hashed: each that is named in `hashes` (base64 of SHA-256).
    """
    try:
        _check_store(_STORES[format_name](data), hashes)
    except (ValueError, IndexError):
        return False
    return True


def first_box(data: bytes) -> bytes:
    """The first box of an AVIF, its brands: the only one that C2PA's hash leaves out."""
    return data[: int.from_bytes(data[:4], "big")]


def _expect(condition: bool) -> None:  # as assert, but never switched off
    if not condition:
        raise _OddError


# The manifest store and its boxes


def _check_store(store: bytes, hashes: Mapping[str, str]) -> None:
    (box,) = _boxes(store)
    manifests = _contents(box, b"c2pa", b"c2pa")
    found = {_label(body): _hash(body) for _, body in manifests[:-1]}
    _expect(all(found.get(label) == stated for label, stated in hashes.items()))
    parts = _contents(manifests[-1], b"c2ma", None)
    for part, (kind, label) in zip(parts, _SIGNED_PARTS, strict=True):
        boxes = _contents(part, kind, label)
        if kind != b"c2as":  # the statements' own boxes are hashed with their headers
            ((name, body),) = boxes
            _expect(name == b"cbor")
    _check_signature(body)


def _boxes(data: bytes) -> list[tuple[bytes, bytes]]:
    """Types and bodies of boxes that fill the data exactly."""
    boxes, position = [], 0
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        _expect(length >= 8 and position + length <= len(data))
        boxes.append((data[position + 4 : position + 8], data[position + 8 : position + length]))
        position += length
    return boxes


def _contents(
    box: tuple[bytes, bytes], kind: bytes, label: bytes | None
) -> list[tuple[bytes, bytes]]:
    """The boxes in a superbox of this kind and name."""
    _expect(box[0] == b"jumb")
    (name, description), *rest = _boxes(box[1])
    _expect(name == b"jumd" and description[:17] == kind + _SUFFIX + b"\x03")
    text = description[17:]
    _expect(text.find(b"\0") == len(text) - 1)
    _expect(label is None or text[:-1] == label)
    return rest


def _label(body: bytes) -> str:
    return _boxes(body)[0][1][17:-1].decode()


def _hash(body: bytes) -> str:
    return base64.b64encode(hashlib.sha256(body).digest()).decode()


def _check_signature(cose: bytes) -> None:
    """COSE_Sign1: statements, a map of nothing but zeros, no payload, the signature, the end."""
    _expect(cose[:2] == b"\xd2\x84")
    position = _string(cose, 2, 2)[1]
    kind, count, position = _head(cose, position)
    _expect(kind == 5)
    for _ in range(count):
        name, position = _string(cose, position, 3)
        filling, position = _string(cose, position, 2)
        _expect(name in (b"pad", b"pad2") and not any(filling))
    _expect(cose[position] == 0xF6)
    _expect(_string(cose, position + 1, 2)[1] == len(cose))


def _head(cbor: bytes, position: int) -> tuple[int, int, int]:
    """Major type, number, and where its content starts (RFC 8949, section 3)."""
    kind, short = cbor[position] >> 5, cbor[position] & 31
    position += 1
    if short < 24:
        return kind, short, position
    _expect(short < 28)
    size = 1 << short - 24
    return kind, int.from_bytes(cbor[position : position + size], "big"), position + size


def _string(cbor: bytes, position: int, kind: int) -> tuple[bytes, int]:
    found, length, position = _head(cbor, position)
    _expect(found == kind and position + length <= len(cbor))
    return cbor[position : position + length], position + length


# What carries it


def _png_store(data: bytes) -> bytes:
    position, stores = 8, []
    while position < len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        body, end = data[position + 4 : position + 8 + length], position + 12 + length
        _expect(data[end - 4 : end] == zlib.crc32(body).to_bytes(4, "big"))
        if body[:4] == b"caBX":
            stores.append(body[4:])
        position = end
    _expect(position == len(data))
    (store,) = stores
    return store


def _jpeg_store(data: bytes) -> bytes:
    """The content of all APP11 segments, which repeat the box's header and are numbered from 1."""
    store = b""
    for number, body in enumerate(_jpeg_segments(data), start=1):
        _expect(body[:8] == _BOX_INSTANCE + number.to_bytes(4, "big"))
        _expect(number == 1 or body[8:16] == store[:8])
        store += body[8:] if number == 1 else body[16:]
    return store


def _jpeg_segments(data: bytes) -> Iterator[bytes]:
    """Bodies of the APP11 segments before the first scan."""
    position = 2
    while data[position : position + 2] != b"\xff\xda":
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        _expect(data[position] == 0xFF and length >= 2)
        if data[position : position + 2] == _APP11:
            yield data[position + 4 : position + 2 + length]
        position += 2 + length


def _webp_store(data: bytes) -> bytes:
    _expect(int.from_bytes(data[4:8], "little") == len(data) - 8)
    position, stores = 12, []
    while position < len(data):
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        end = position + 8 + length
        _expect(length % 2 == 0 or data[end : end + 1] == b"\0")
        if data[position : position + 4] == b"C2PA":
            stores.append(data[position + 8 : end])
        position = end + length % 2
    _expect(position == len(data))
    (store,) = stores
    return store


def _avif_store(data: bytes) -> bytes:
    (box,) = (body for kind, body in _boxes(data) if kind == b"uuid" and body[:16] == _C2PA_UUID)
    head = bytes(4) + b"manifest\0" + bytes(8)  # version and flags, purpose, no further box
    _expect(box[16 : 16 + len(head)] == head)
    return box[16 + len(head) :]


_STORES = {"PNG": _png_store, "JPEG": _jpeg_store, "WEBP": _webp_store, "AVIF": _avif_store}
