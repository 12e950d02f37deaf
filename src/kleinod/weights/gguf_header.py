"""The header of a GGUF file, checked: counts, strings, types and ranges. No torch, no gguf package.

magic, version, number of tensors, number of values; the values (typed, strings with their length);
for each tensor name, sizes (innermost first), type and offset; then, aligned, the data.
Source: the format's description in the llama.cpp project.
"""

import math
import struct
from typing import Any, BinaryIO

from kleinod.weights.headers import MAX_RANK, Header, Refusal, TensorEntry, checked_shape, shown

MAGIC = b"GGUF"
MAX_HEADER_BYTES = 64_000_000  # a vocabulary with its merges is about 10 MB
MAX_TENSORS = 65_536
MAX_VALUES = 4096
MAX_NAME_BYTES = 256
MAX_STRING_BYTES = 1_000_000
_KEPT_LETTERS = 1000
_CHUNK_BYTES = 1 << 20
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))

# type number: (name, numbers in a block, bytes of a block)
TYPES = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}


class _Cursor:
    """Reads numbers and strings one after the other, a chunk of the file at a time."""

    def __init__(self, file: BinaryIO, num_bytes: int) -> None:
        self._file, self._num_bytes = file, num_bytes
        self._data, self.position = bytearray(), 0
        file.seek(0)

    def skip(self, num_bytes: int) -> None:
        """Move on, which fails where the file or the limit ends."""
        end = self.position + num_bytes
        if end > self._num_bytes:
            raise Refusal(f"needs byte {end} of {self._num_bytes}; it is cut short")
        if end > MAX_HEADER_BYTES:
            raise Refusal(f"header is over the limit of {MAX_HEADER_BYTES} bytes")
        while len(self._data) < end:
            more = self._file.read(_CHUNK_BYTES)
            if not more:
                raise Refusal("ends within its header; it is cut short")
            self._data += more
        self.position = end

    def take(self, num_bytes: int) -> bytes:
        """The next bytes."""
        start = self.position
        self.skip(num_bytes)
        return bytes(self._data[start : self.position])

    def skip_strings(self, count: int) -> None:
        """Move over strings; a vocabulary has hundreds of thousands, so it is one plain loop."""
        for _ in range(count):
            start = self.position
            if start + 8 > len(self._data):
                self.skip(8)
            (length,) = _LENGTH.unpack_from(self._data, start)
            if length > MAX_STRING_BYTES:
                raise Refusal(f"a string of {length} bytes is over the limit {MAX_STRING_BYTES}")
            self.position = start + 8 + length
            if self.position > len(self._data):
                self.position = start
                self.skip(8 + length)

    def number(self, letter: str) -> Any:  # noqa: ANN401 - int, float or bool by the letter
        """One number of a struct format."""
        form = "<" + letter
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def count(self, what: str, limit: int) -> int:
        """A count that is at most `limit`."""
        value = self.number("Q")
        if value > limit:
            raise Refusal(f"{what} {value} is over the limit of {limit}")
        return int(value)

    def string(self, what: str, limit: int) -> str:
        """A string of at most `limit` bytes of UTF-8."""
        data = self.take(self.count(f"length of {what}", limit))
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise Refusal(f"{what} {shown(data[:40])} is no UTF-8") from error


def parsed(file: BinaryIO, num_bytes: int) -> Header:
    """The header of an open file. Raises Refusal."""
    cursor = _Cursor(file, num_bytes)
    cursor.take(len(MAGIC))
    version = cursor.number("I")
    if version not in (2, 3):
        raise Refusal(f"GGUF version {version} is not read, only 2 and 3 (little-endian)")
    num_tensors = cursor.count("number of tensors", MAX_TENSORS)
    num_values = cursor.count("number of values", MAX_VALUES)
    metadata: dict[str, Any] = {}
    for _ in range(num_values):
        name = cursor.string("a value's name", MAX_NAME_BYTES)
        if name in metadata:
            raise Refusal(f"value {shown(name)} is there twice")
        metadata[name] = _value(cursor, name)
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 1 <= alignment <= 65_536 or alignment & (alignment - 1):
        raise Refusal(f"general.alignment {shown(alignment)} is no power of two up to 65536")
    tensors = _tensors(cursor, num_tensors)
    begin = _aligned(cursor.position, alignment)
    placed = {
        name: entry._replace(begin=begin + entry.begin, end=begin + entry.end)
        for name, entry in tensors.items()
    }
    _check_ranges(placed, begin, alignment, num_bytes)
    return Header("gguf", placed, metadata, begin)


def _value(cursor: _Cursor, name: str) -> Any:  # noqa: ANN401 - of many types
    """A scalar or a short string; of an array or a template only its length, to keep it small."""
    kind = cursor.number("I")
    if kind in _SCALARS:
        return cursor.number(_SCALARS[kind])
    if kind == _STRING:
        text = cursor.string(f"value {shown(name)}", MAX_STRING_BYTES)
        return text if len(text) <= _KEPT_LETTERS else f"({len(text)} letters)"
    if kind != _ARRAY:
        raise Refusal(f"value {shown(name)}: type {kind} is unknown")
    item = cursor.number("I")
    count = cursor.count(f"length of value {shown(name)}", MAX_HEADER_BYTES)
    if item in _SCALARS:
        cursor.skip(count * struct.calcsize("<" + _SCALARS[item]))
    elif item == _STRING:
        cursor.skip_strings(count)
    else:
        raise Refusal(f"value {shown(name)}: an array of type {item} is not read")
    return f"({count} values)"


def _tensors(cursor: _Cursor, num_tensors: int) -> dict[str, TensorEntry]:
    """Ranges from the start of the data."""
    tensors: dict[str, TensorEntry] = {}
    for _ in range(num_tensors):
        name = cursor.string("a tensor's name", MAX_NAME_BYTES)
        if name in tensors or not name.isprintable():
            raise Refusal(f"tensor {shown(name)}: the name is there twice or cannot be printed")
        rank = cursor.number("I")
        if rank > MAX_RANK:
            raise Refusal(f"tensor {shown(name)}: has {rank} dimensions, the limit is {MAX_RANK}")
        shape = checked_shape(name, [cursor.number("Q") for _ in range(rank)][::-1])
        kind = cursor.number("I")
        if kind not in TYPES:
            raise Refusal(f"tensor {shown(name)}: type {kind} is unknown")
        dtype, block, block_bytes = TYPES[kind]
        if block > 1 and (not shape or shape[-1] % block):
            raise Refusal(f"tensor {shown(name)}: rows of {list(shape)} are no blocks of {block}")
        begin = cursor.number("Q")
        size = math.prod(shape) // block * block_bytes
        tensors[name] = TensorEntry(dtype, shape, begin, begin + size)
    return tensors


def _check_ranges(
    tensors: dict[str, TensorEntry], begin: int, alignment: int, num_bytes: int
) -> None:
    """In the file, aligned, following each other with padding only."""
    position = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > num_bytes:
            raise Refusal(
                f"tensor {shown(name)}: ends at byte {entry.end} of {num_bytes}; it is cut short"
            )
        if entry.begin != _aligned(position, alignment):
            raise Refusal(
                f"tensor {shown(name)}: begins at {entry.begin}, not at "
                f"{_aligned(position, alignment)} where the one before it ends"
            )
        position = entry.end


def _aligned(position: int, alignment: int) -> int:
    return (position + alignment - 1) // alignment * alignment
