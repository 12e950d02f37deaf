"""Small files written byte by byte, so that a test can lie in any place of them."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Tensors = Mapping[str, tuple[str, tuple[int, ...], int]]


def safetensors_bytes(header: Mapping[str, Any] | bytes, data: bytes = b"") -> bytes:
    """The length, the header and the data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def header_of(tensors: Tensors, metadata: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A valid header of tensors {name: (dtype, shape, bytes)}, one after the other."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    position = 0
    for name, (dtype, shape, num_bytes) in tensors.items():
        end = position + num_bytes
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [position, end]}
        position = end
    return header


def write_sparse(path: Path, tensors: Tensors, metadata: Mapping[str, str] | None = None) -> Path:
    """A safetensors file of any size whose data are a hole of zeros: takes no room on the disk."""
    head = safetensors_bytes(header_of(tensors, metadata))
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + sum(num_bytes for _, _, num_bytes in tensors.values()))
    return path


def gguf_string(text: str) -> bytes:
    """Length and bytes."""
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_bytes(tensors: Mapping[str, tuple[int, tuple[int, ...], bytes]]) -> bytes:
    """A GGUF file of tensors {name: (type, sizes innermost first, data)} and three values."""
    values = gguf_string("general.architecture") + struct.pack("<I", 8) + gguf_string("flux")
    values += gguf_string("a.number") + struct.pack("<If", 6, 0.5)
    values += gguf_string("a.list") + struct.pack("<IIQ", 9, 8, 2) + gguf_string("x") * 2
    entries, data = b"", b""
    for name, (kind, sizes, content) in tensors.items():
        entries += gguf_string(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        entries += struct.pack("<IQ", kind, len(data))
        data += content + bytes(-len(content) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), 3) + values + entries
    return head + bytes(-len(head) % 32) + data


GOOD = header_of({"a.weight": ("F32", (2, 3), 24), "b": ("F8_E4M3", (4,), 4)}, {"format": "pt"})
GOOD_GGUF = gguf_bytes(
    {"a.weight": (0, (3, 2), bytes(24)), "b": (8, (32, 2), bytes(68)), "c": (30, (5,), bytes(10))}
)
