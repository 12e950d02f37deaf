"""Headers of whole files are read; every lie in one is a clear error, cheaply."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from struct import pack, unpack
from typing import Any

import gguf
import header_fuzz
import numpy as np
import pytest
import torch
from header_files import GOOD, GOOD_GGUF, safetensors_bytes
from safetensors.torch import save_file

from kleinod.errors import WeightsError
from kleinod.weights import gguf_header
from kleinod.weights.headers import (
    MAX_HEADER_BYTES,
    Header,
    read_header,
    read_index,
    read_shards,
)


def _read(folder: Path, data: bytes) -> Header:
    path = folder / "file.bin"
    path.write_bytes(data)
    return read_header(path)


def _changed(**values: object) -> dict[str, Any]:
    """GOOD with another entry for a.weight."""
    return GOOD | {"a.weight": GOOD["a.weight"] | values}


def test_a_file_of_safetensors_own_is_read(tmp_path: Path) -> None:
    tensors = {
        "half": torch.zeros(2, 3, dtype=torch.bfloat16),
        "eight": torch.zeros(4, dtype=torch.float8_e4m3fn),
        "scalar": torch.tensor(1.0),
        "none": torch.zeros(0, 5),
        "count": torch.tensor(1),
    }
    save_file(tensors, tmp_path / "a.safetensors", metadata={"key": "value"})
    header = read_header(tmp_path / "a.safetensors")
    assert header.metadata == {"key": "value"}
    shapes = {name: entry.shape for name, entry in header.tensors.items()}
    assert shapes == {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: entry.dtype for name, entry in header.tensors.items()}
    assert dtypes == {
        "half": "BF16", "eight": "F8_E4M3", "scalar": "F32", "none": "F32", "count": "I64",
    }  # fmt: skip
    entry = header.tensors["scalar"]
    whole = (tmp_path / "a.safetensors").read_bytes()
    assert unpack("<f", whole[entry.begin : entry.end]) == (1.0,)
    assert max(entry.end for entry in header.tensors.values()) == len(whole)


def test_a_file_of_ggufs_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(path, "flux")
    writer.add_array("tokenizer.ggml.tokens", [f"token {n}" for n in range(3000)])
    weights = np.arange(512, dtype=np.float32).reshape(2, 256)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_0)
    writer.add_tensor("plain.weight", weights)
    writer.add_tensor("packed.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    header = read_header(path)
    assert header.format == "gguf"
    assert header.metadata["general.architecture"] == "flux"
    assert header.metadata["tokenizer.ggml.tokens"] == "(3000 values)"
    packed_entry, plain = header.tensors["packed.weight"], header.tensors["plain.weight"]
    assert (packed_entry.dtype, packed_entry.shape) == ("Q4_0", (2, 256))
    assert (plain.dtype, plain.shape) == ("F32", (2, 256))
    assert path.read_bytes()[plain.begin : plain.end] == weights.tobytes()
    assert path.read_bytes()[packed_entry.begin : packed_entry.end] == packed.tobytes()


def test_gguf_types_are_the_packages() -> None:
    theirs = {
        int(kind): (kind.name, *sizes) for kind, sizes in gguf.constants.GGML_QUANT_SIZES.items()
    }
    assert {kind: TYPE for kind, TYPE in gguf_header.TYPES.items() if kind in theirs} == theirs


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (_changed(data_offsets=[0, 20]), r"'a\.weight': F32 \[2, 3\] needs 24 bytes"),
        (_changed(data_offsets=[24, 0]), "another size"),
        (_changed(data_offsets=[-8, 16]), "no two positions"),
        (_changed(data_offsets=[0.0, 24]), "no two positions"),
        (_changed(data_offsets=[0, 24, 24]), "no two positions"),
        (_changed(data_offsets=[1 << 70, 24]), "no two positions"),
        (_changed(data_offsets=[4, 28]), "its range begins at .* (leaves a hole|overlaps)"),
        (_changed(shape=[2, -3]), r"shape \[2, -3\] is absurd"),
        (_changed(shape=[2, True]), "is absurd"),
        (_changed(shape=[1] * 9), "is absurd"),
        (_changed(shape=[1 << 40, 1 << 40]), "is absurd"),
        (_changed(shape="2,3"), "is absurd"),
        (_changed(dtype="F33"), "dtype 'F33' is unknown"),
        (_changed(dtype=["F32"]), "is unknown"),
        (_changed(extra=1), "not dtype, shape and data_offsets"),
        (GOOD | {"c": 3}, "not dtype, shape and data_offsets"),
        (GOOD | {"c\n": GOOD["b"]}, "cannot be printed"),
        (GOOD | {"\ud800": GOOD["b"]}, "cannot be printed"),
        (GOOD | {"__metadata__": {"a": 1}}, "no table of strings"),
        (GOOD | {"c": GOOD["b"]}, "'c': its range begins at .* and overlaps"),
        ({"b": GOOD["b"]}, "'b': its range begins at .* and leaves a hole"),
        ({"a.weight": GOOD["a.weight"]}, "4 bytes at the end belong to no tensor"),
        (b'{"a": NaN}', "holds NaN"),
        (b'{"a": {"dtype": "U8"}, "a": {}}', "names 'a' twice"),
        (b'{"a": {"dtype": "U8", "dtype": "U8"}}', "names 'dtype' twice"),
        (b"[1]", "does not begin with {"),
        (b'{"a": ', "is no JSON"),
        (b'{"\xff": 1}', "is no JSON"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
        (b'{"a":[' + b"{}," * 300_000 + b"1]}", "parts, the limit is"),
        (b'{"a":' + b"9" * 5000 + b"}", "is no JSON"),
    ],
)  # fmt: skip
def test_a_lie_is_named(header: dict[str, Any] | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message) as caught:
        _read(tmp_path, safetensors_bytes(header, bytes(28)))
    assert "file.bin: " in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty \\(0 bytes\\)"),
        (b"\x04\0\0", "has 3 bytes"),
        (safetensors_bytes(GOOD, bytes(28))[:-1], "is cut short"),
        (safetensors_bytes(GOOD)[:40], "is cut short"),
        (safetensors_bytes(GOOD, bytes(29)), "1 bytes at the end"),
        (b"\xff" * 60, "header length 18446744073709551615 is over"),
        (b"PK\x03\x04" + bytes(60), "is a zip archive"),
        (b"\x80\x02}q\x00." + bytes(60), "is a pickle"),
    ],
)
def test_a_file_that_is_cut_or_no_safetensors(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, data)


def test_a_header_over_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    with path.open("wb") as file:
        file.write(pack("<Q", MAX_HEADER_BYTES + 1))
        file.truncate(MAX_HEADER_BYTES + 100)
    with pytest.raises(WeightsError, match=f"over the limit of {MAX_HEADER_BYTES}"):
        read_header(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pipe", "is no regular file; give a"),
        ("absent", "does not exist; check"),
        (".", "is a folder; give a"),
        ("loop", "is a link that leads to no file"),
        ("broken", "is a link that leads to no file"),
    ],
)
def test_what_is_no_file_is_refused_without_waiting(
    tmp_path: Path, name: str, message: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "broken").symlink_to("nowhere")
    with pytest.raises(WeightsError, match=message):
        read_header(tmp_path / name)


def _gguf_with(old: bytes, new: bytes) -> bytes:
    assert GOOD_GGUF.count(old) == 1
    return GOOD_GGUF.replace(old, new)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (GOOD_GGUF[:40], "is cut short"),
        (GOOD_GGUF[:-96], "'b': ends at byte"),
        (b"GGUF" + pack("<I", 1) + GOOD_GGUF[8:], "version 1 is not read"),
        (b"GGUF" + pack(">I", 3) + GOOD_GGUF[8:], "version 50331648 is not read"),
        (GOOD_GGUF[:8] + pack("<Q", 1 << 40) + GOOD_GGUF[16:], "number of tensors 1099511627776"),
        (GOOD_GGUF[:16] + pack("<Q", 1 << 40) + GOOD_GGUF[24:], "number of values 1099511627776"),
        (GOOD_GGUF[:24] + pack("<Q", 1 << 62) + GOOD_GGUF[32:], "length of a value's name"),
    ],
)
def test_a_gguf_that_lies_in_its_counts(data: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, data)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"general.", b"general\xff", "is no UTF-8"),
        (b"a.list" + pack("<I", 9), b"a.list" + pack("<I", 99), "type 99 is unknown"),
        (b"a.list" + pack("<II", 9, 8), b"a.list" + pack("<II", 9, 9), "array of type 9"),
        (pack("<IQ", 8, 2), pack("<IQ", 8, 1 << 60), "over the limit"),
        (pack("<IQ", 8, 2), pack("<IQ", 8, 1 << 20), "cut short|over the limit"),
        (b"b" + pack("<IQ", 2, 32), b"b" + pack("<IQ", 2, 33), "no blocks of 32"),
        (b"b" + pack("<IQ", 2, 32), b"b" + pack("<IQ", 2, 1 << 59), "is absurd"),
        (b"b" + pack("<IQ", 2, 32), b"b" + pack("<IQ", 200, 32), "200 dimensions"),
        (b"b" + pack("<I", 2), b"c" + pack("<I", 2), "'c': the name is there twice"),
        (b"b" + pack("<I", 2), b"\n" + pack("<I", 2), "cannot be printed"),
        (pack("<IQ", 30, 128), pack("<IQ", 31, 128), "type 31 is unknown"),
    ],
)
def test_a_lie_in_gguf_is_named(old: bytes, new: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=message):
        _read(tmp_path, _gguf_with(old, new))


def test_gguf_offsets_follow_each_other(tmp_path: Path) -> None:
    marker = b"b" + pack("<IQQIQ", 2, 32, 2, 8, 32)
    assert len(_read(tmp_path, GOOD_GGUF).tensors) == 3
    for offset in (0, 33, 64, 1 << 63):
        data = _gguf_with(marker, b"b" + pack("<IQQIQ", 2, 32, 2, 8, offset))
        with pytest.raises(WeightsError, match=r"begins at|ends at byte"):
            _read(tmp_path, data)


def test_a_lie_in_an_index_is_named(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "one.safetensors")
    save_file({"b": torch.ones(2)}, tmp_path / "two.safetensors")
    index = tmp_path / "model.safetensors.index.json"

    def write(weight_map: object) -> None:
        index.write_text(json.dumps({"weight_map": weight_map}))

    write({"a": "one.safetensors", "b": "two.safetensors"})
    assert read_index(index) == {"a": "one.safetensors", "b": "two.safetensors"}
    assert [path.name for path in read_shards(index)] == ["one.safetensors", "two.safetensors"]
    for place, message in (
        ("../one.safetensors", "no .safetensors file beside it"),
        ("..\\\\one.safetensors", "no .safetensors file beside it"),
        (str(tmp_path / "one.safetensors"), "no .safetensors file beside it"),
        ("one.ckpt", "no .safetensors file beside it"),
        ("three.safetensors", "shard 'three.safetensors' is missing"),
        ("nul\0.safetensors", "is missing"),
        (3, "no weight_map of file names"),
    ):
        write({"a": place})
        with pytest.raises(WeightsError, match=re.escape(message)):
            read_index(index)
    for wrong in ({"a": "two.safetensors", "b": "one.safetensors"}, {"a": "one.safetensors"}):
        write(wrong | {"b": "two.safetensors"} if len(wrong) == 1 else wrong)
        if len(wrong) == 2:
            with pytest.raises(WeightsError, match="tensor 'a' is not where it says"):
                read_shards(index)
    write({"a": "one.safetensors", "b": "two.safetensors", "c": "two.safetensors"})
    with pytest.raises(WeightsError, match="tensor 'c' is not where it says"):
        read_shards(index)
    index.write_text('{"weight_map": {"a": "one.safetensors", "a": "one.safetensors"}}')
    with pytest.raises(WeightsError, match="names 'a' twice"):
        read_index(index)


def test_thousands_of_mutants_are_refused_or_read_cheaply(tmp_path: Path) -> None:
    report = _measured("mutants", tmp_path / "mutant")
    assert report["refused"] + report["read"] == 4000
    assert report["refused"] > 2500 and report["read"] > 100
    assert report["extra_megabytes"] < 50


@pytest.mark.parametrize("name", header_fuzz.BOMBS)
def test_a_bomb_takes_little_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "bomb"
    path.write_bytes(header_fuzz.BOMBS[name]())
    assert _measured("bomb", path)["extra_megabytes"] < 200


def _measured(what: str, path: Path) -> dict[str, int]:
    """Run header_fuzz in a process of its own, for its memory and so that a hang ends."""
    command = [sys.executable, header_fuzz.__file__, what, str(path)]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return json.loads(output.stdout)
