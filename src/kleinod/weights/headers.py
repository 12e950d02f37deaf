"""What a weight file says of itself, checked before anything else opens it. No torch in here.

`read_header` reads names, dtypes, shapes and ranges of a safetensors or GGUF file, no tensor data.
A safetensors file is 8 bytes of length, so many bytes of JSON, and the data, which the ranges must
cover without hole or overlap. Whatever does not fit is a WeightsError: a file may come from anyone.
"""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from kleinod.display import quoted
from kleinod.errors import WeightsError
from kleinod.weights import foreign_files

SUFFIX = ".safetensors"
GGUF_SUFFIX = ".gguf"
INDEX_SUFFIX = ".safetensors.index.json"
# Published headers are under 1 MB. The format allows 100 MB, which may decode to 800 MB: one letter
# outside the first plane makes four bytes of each.
MAX_HEADER_BYTES = 16_000_000
MAX_RANK = 8
# Each of these signs makes at most one object of some hundred bytes when the JSON is decoded.
_MAX_JSON_SIGNS = 400_000
_SIGNS = (b"{", b"[", b",")

_DTYPE_BITS = (
    dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 8)
    | dict.fromkeys(("F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8)
    | dict.fromkeys(("U16", "I16", "F16", "BF16"), 16)
    | dict.fromkeys(("U32", "I32", "F32"), 32)
    | dict.fromkeys(("U64", "I64", "F64", "C64"), 64)
    | {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
)


class TensorEntry(NamedTuple):
    """One tensor: dtype by the format's own name, and bytes from `begin` to `end` of the file."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def num_elements(self) -> int:
        """How many numbers, as the shape has it."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Header:
    """What a file says of itself; metadata are strings, and numbers too in GGUF."""

    format: str
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, Any]
    num_header_bytes: int


class Refusal(Exception):
    """Why a header is refused, and what to do; becomes a WeightsError that names the file."""

    def __init__(self, reason: str, remedy: str = "fetch it again") -> None:
        super().__init__(f"{reason}; {remedy}")


def read_header(path: Path) -> Header:
    """The header of a safetensors or GGUF file, wholly checked. Raises WeightsError."""
    from kleinod.weights import gguf_header

    try:
        if not path.is_file():
            raise _not_a_file(path)
        with path.open("rb") as file:
            num_bytes = path.stat().st_size
            start = file.read(foreign_files.NUM_BYTES)
            # by what is in it: names lie
            if start[:4] == gguf_header.MAGIC:
                return gguf_header.parsed(file, num_bytes)
            other = foreign_files.recognized(start, num_bytes)
            if other:
                raise Refusal(*other)
            file.seek(8)
            return _safetensors(start[:8], file.read, num_bytes)
    except Refusal as refusal:
        raise WeightsError(f"{path}: {refusal}") from refusal
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); check the path") from error


def _not_a_file(path: Path) -> Refusal:
    if path.is_symlink():
        return Refusal("is a link that leads to no file (its target is missing, or a loop)")
    if path.is_dir():
        return Refusal("is a folder", "give a .safetensors or .gguf file in it")
    if path.exists():
        return Refusal("is no regular file", "give a .safetensors or .gguf file")
    return Refusal("does not exist", "check the path")


def file_error(path: Path) -> WeightsError:
    """Why a path is no file that could be read."""
    return WeightsError(f"{path}: {_not_a_file(path)}")


def shown(name: object) -> str:
    """A name or value of a file in an error: on one line, printable, not long."""
    return quoted(name)


def _safetensors(start: bytes, read: Callable[[int], bytes], num_bytes: int) -> Header:
    if len(start) < 8:
        raise Refusal(f"has {num_bytes} bytes, which is no safetensors file")
    length = int.from_bytes(start, "little")
    if length > num_bytes - 8:
        raise Refusal(
            f"header length {length} is over the file's {num_bytes} bytes; it is cut short or "
            "no safetensors file"
        )
    if length > MAX_HEADER_BYTES:
        raise Refusal(f"header length {length} is over the limit of {MAX_HEADER_BYTES}")
    values = _json_object(read(length))
    metadata = _metadata(values.pop("__metadata__", {}))
    begin = 8 + length
    tensors = {name: _entry(name, value, begin) for name, value in values.items()}
    _check_cover(tensors, begin, num_bytes)
    return Header("safetensors", tensors, metadata, begin)


def _json_object(data: bytes) -> dict[str, Any]:
    """Decode JSON whose size in memory is bounded; names must differ."""
    signs = sum(data.count(sign) for sign in _SIGNS)
    if signs > _MAX_JSON_SIGNS:
        raise Refusal(f"header has {signs} parts, the limit is {_MAX_JSON_SIGNS}")
    if not data.startswith(b"{"):
        raise Refusal("header does not begin with {; it is no safetensors file")
    try:
        values = json.loads(
            data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_number
        )
    except ValueError as error:
        raise Refusal(f"header is no JSON ({shown(str(error))})") from error
    except RecursionError as error:
        raise Refusal("header is nested too deeply") from error
    assert isinstance(values, dict)  # it begins with {
    return values


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        counts = Counter(name for name, _ in pairs)
        raise Refusal(f"header names {shown(counts.most_common(1)[0][0])} twice")
    return values


def _no_number(text: str) -> NoReturn:
    raise Refusal(f"header holds {text}, which is no JSON")


def _metadata(values: object) -> dict[str, str]:
    if not isinstance(values, dict) or not all(isinstance(v, str) for v in values.values()):
        raise Refusal("__metadata__ is no table of strings")
    return values


def _entry(name: str, value: object, data_begin: int) -> TensorEntry:
    if not isinstance(value, dict) or value.keys() != {"dtype", "shape", "data_offsets"}:
        raise Refusal(f"tensor {shown(name)}: is {shown(value)}, not dtype, shape and data_offsets")
    if not name.isprintable():
        raise Refusal(f"tensor {shown(name)}: the name holds signs that cannot be printed")
    dtype = value["dtype"]
    if not isinstance(dtype, str) or dtype not in _DTYPE_BITS:
        raise Refusal(f"tensor {shown(name)}: dtype {shown(dtype)} is unknown")
    shape = checked_shape(name, value["shape"])
    offsets = value["data_offsets"]
    if not _are_counts(offsets) or len(offsets) != 2:
        raise Refusal(f"tensor {shown(name)}: data_offsets {shown(offsets)} are no two positions")
    begin, end = offsets
    num_bits = math.prod(shape) * _DTYPE_BITS[dtype]
    if num_bits != (end - begin) * 8:
        raise Refusal(
            f"tensor {shown(name)}: {dtype} {list(shape)} needs {num_bits / 8:.0f} bytes, "
            f"its range {shown(offsets)} is another size"
        )
    return TensorEntry(dtype, shape, data_begin + begin, data_begin + end)


def checked_shape(name: str, shape: Any) -> tuple[int, ...]:  # noqa: ANN401 - from a file
    """A shape of at most MAX_RANK sizes whose product is a 64-bit number. Raises Refusal."""
    if not _are_counts(shape) or len(shape) > MAX_RANK or math.prod(shape) >= 2**60:
        raise Refusal(f"tensor {shown(name)}: shape {shown(shape)} is absurd")
    return tuple(shape)


def _are_counts(values: object) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**60 for v in values)


def _check_cover(tensors: Mapping[str, TensorEntry], begin: int, num_bytes: int) -> None:
    """The ranges follow each other from the header's end to the file's."""
    position = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if entry.end > num_bytes:
            raise Refusal(
                f"tensor {shown(name)}: ends at byte {entry.end} of {num_bytes}; it is cut short"
            )
        if entry.begin != position:
            kind = "overlaps the one before it" if entry.begin < position else "leaves a hole"
            raise Refusal(f"tensor {shown(name)}: its range begins at {entry.begin} and {kind}")
        position = entry.end
    if position != num_bytes:
        raise Refusal(f"{num_bytes - position} bytes at the end belong to no tensor")


def titles_of(metadata: Mapping[str, Any]) -> tuple[str, ...]:
    """What a file calls itself; empty strings where it does not."""
    return tuple(str(metadata.get(key, "")) for key in ("general.name", "modelspec.title"))


def own_titles(path: Path) -> tuple[str, ...]:
    """What a single file calls itself; nothing for a folder. Raises WeightsError."""
    return titles_of(read_header(path).metadata) if path.is_file() else ()


def read_index(path: Path) -> dict[str, str]:
    """The file beside a shard index that holds each tensor, all present. Raises WeightsError."""
    try:
        if not path.is_file() or path.stat().st_size > MAX_HEADER_BYTES:
            raise Refusal(f"is no index of at most {MAX_HEADER_BYTES} bytes")
        names = _json_object(path.read_bytes().lstrip()).get("weight_map")
        if not isinstance(names, dict) or not all(isinstance(n, str) for n in names.values()):
            raise Refusal("holds no weight_map of file names")
        for name in sorted(set(names.values())):
            # an index may come from anyone: it names files beside it, nothing else
            if Path(name).name != name or "\\" in name or not name.endswith(SUFFIX):
                raise Refusal(f"names {shown(name)}, which is no {SUFFIX} file beside it")
            if not name.isprintable() or not (path.parent / name).is_file():
                raise Refusal(f"shard {shown(name)} is missing")
    except Refusal as refusal:
        raise WeightsError(f"{path}: {refusal}") from refusal
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); check the path") from error
    return names


def read_shards(index: Path) -> dict[Path, Header]:
    """Headers of an index's files; each tensor lies where the index says. Raises WeightsError."""
    places = read_index(index)
    shards = {
        index.parent / name: read_header(index.parent / name) for name in set(places.values())
    }
    found = {name: path.name for path, shard in shards.items() for name in shard.tensors}
    if found != places or sum(len(shard.tensors) for shard in shards.values()) != len(places):
        wrong = sorted(found.keys() ^ places.keys()) or sorted(
            name for name in places if found[name] != places[name]
        )
        name = wrong[0] if wrong else "(one that lies in two files)"
        raise WeightsError(f"{index}: tensor {shown(name)} is not where it says; fetch it again")
    return dict(sorted(shards.items()))
