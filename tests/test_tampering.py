"""A hundred tampered files: `kleinod verify` reports each, in four formats.

Per format 14 changed bytes, 4 regions painted over, 4 kinds of stripped metadata, 3 manifests of
other pictures. What an attacker may do: write pixels and metadata anew, and put any bytes anywhere.
"""

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import attacks
import numpy as np
import pytest
from PIL import Image, ImageDraw
from test_manifest import FORMATS, RECEIPT
from typer.testing import CliRunner

from kleinod.cli import app
from kleinod.provenance import authority, container, frame, manifest
from kleinod.provenance.receipt import ProvenanceOptions, Receipt
from kleinod.session import prepare_signing
from kleinod.session.finish import encode_file, mark

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "AVIF": ".avif"}
BYTES, REGIONS, STRIPPED, SWAPPED = 14, 4, 4, 3


def _signed(format_name: str, *, name: str = "astronaut", seed: int = 1) -> bytes:
    request = RECEIPT["request"] | {"seed": seed}
    draft = RECEIPT | {"watermark": {"method": "robust"}, "request": request}
    image, receipt = mark(attacks.picture(name, 256), draft | {"safety": {"filters": "off"}})
    return encode_file(image, receipt, format_name, prepare_signing(ProvenanceOptions()))


@pytest.fixture(scope="module")
def originals(own_folders: None) -> dict[str, bytes]:
    return {name: _signed(name) for name in FORMATS}


def _opened(data: bytes) -> tuple[Image.Image, Receipt]:
    with Image.open(io.BytesIO(data)) as picture:
        receipt = container.receipt_in(picture)
        assert receipt is not None
        return picture.convert("RGB"), receipt


def _store(data: bytes, format_name: str) -> bytes:
    return frame._STORES[format_name](data)


def _with_manifest(data: bytes, store: bytes, format_name: str) -> bytes:
    """A signed file with another manifest in the place of its own, its frame kept right."""
    own = _store(data, format_name)
    assert len(own) == len(store) and data.count(own) == 1
    changed = bytearray(data.replace(own, store))
    if format_name == "PNG":
        end = data.index(own) + len(own)
        changed[end : end + 4] = zlib.crc32(b"caBX" + store).to_bytes(4, "big")
    assert _store(bytes(changed), format_name) == store
    return bytes(changed)


def _changed_byte(data: bytes, format_name: str, number: int) -> bytes:
    """A byte anywhere; the first six around the manifest, where no signature reaches."""
    draws = np.random.default_rng([number, len(format_name), ord(format_name[0])])
    around = {
        0: data.index(b"jumb") - 10,
        1: data.index(b"jumb") - 3,
        2: data.index(b"c2pa.assertions") + 3,
        3: data.index(b"c2pa.claim") + 6,
        4: data.rindex(b"c2pa.signature") - 30,
        5: data.rindex(b"c2pa.signature") + 4,
    }
    position = around.get(number, int(draws.integers(len(data))))
    changed = bytearray(data)
    changed[position] ^= 1 << int(draws.integers(8))
    return bytes(changed)


def _painted_over(data: bytes, format_name: str, number: int) -> bytes:
    """A region of the pixels, written anew with the old receipt and the old manifest."""
    picture, receipt = _opened(data)
    left, side = 40 * number, (4, 16, 40, 90)[number]
    box = (left, 30, left + side, 30 + side)
    ImageDraw.Draw(picture).rectangle(box, fill=(200, 30, 60))
    written = container.encoded(picture, format_name, receipt, {"Software": "kleinod 0.1.0"})
    forged = manifest.signed(
        written, format_name, receipt=receipt, references=(), identity=authority.identity()
    )
    return _with_manifest(forged, _store(data, format_name), format_name)


def _stripped(data: bytes, format_name: str, number: int) -> bytes:
    """0, 1: nothing but pixels, at two qualities; 2: the receipt kept; 3: another receipt."""
    picture, receipt = _opened(data)
    buffer = io.BytesIO()
    if number < 2:
        picture.save(buffer, format_name, quality=(95, 85)[number])
        return buffer.getvalue()
    if number == 3:
        receipt["request"]["prompt"] = "an owl"
    return container.encoded(picture, format_name, receipt)


def _swapped(data: bytes, format_name: str, number: int) -> bytes:
    """The manifest of another picture: of another seed, of another motif, of a drawing."""
    name = ("astronaut", "chelsea", "tree on red")[number]
    other = _signed(format_name, name=name, seed=number + 2)
    return _with_manifest(data, _store(other, format_name), format_name)


Tampering = Callable[[bytes, str, int], bytes]
CASES: list[tuple[str, Tampering, int]] = [
    (format_name, tampering, number)
    for format_name in FORMATS
    for tampering, count in (
        (_changed_byte, BYTES),
        (_painted_over, REGIONS),
        (_stripped, STRIPPED),
        (_swapped, SWAPPED),
    )
    for number in range(count)
]
WORDS = {
    _changed_byte: ("does not hold", "is gone", "stripped", "no whole picture", "cannot be read"),
    _painted_over: ("changed after it was signed",),
    _stripped: ("is gone", "stripped"),
    _swapped: ("the manifest is that of another picture",),
}


def _id(value: object) -> str:
    return getattr(value, "__name__", str(value)).strip("_")


def test_there_are_a_hundred_cases() -> None:
    assert len(CASES) == 100


@pytest.mark.parametrize("format_name", FORMATS)
def test_untouched_file_is_whole(
    originals: dict[str, bytes], format_name: str, tmp_path: Path
) -> None:
    path = tmp_path / f"a{SUFFIXES[format_name]}"
    path.write_bytes(originals[format_name])
    assert CliRunner().invoke(app, ["verify", str(path)]).exit_code == 0


def test_damaged_pixels_do_not_hide_a_broken_signature(
    originals: dict[str, bytes], tmp_path: Path
) -> None:
    changed = bytearray(originals["PNG"])
    changed[changed.index(b"IDAT") + 400] ^= 1
    path = tmp_path / "a.png"
    path.write_bytes(changed)
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert result.exit_code == 1
    assert "pixels cannot be read" in result.output
    assert "changed after it was signed" in result.output
    result = CliRunner().invoke(app, ["repeat", str(path)])
    assert result.exit_code == 2
    assert "picture: the pixels of" in result.output


@pytest.mark.parametrize(("format_name", "tampering", "number"), CASES, ids=_id)
def test_tampered_file_is_reported(
    originals: dict[str, bytes],
    format_name: str,
    tampering: Tampering,
    number: int,
    tmp_path: Path,
) -> None:
    data = originals[format_name]
    changed = tampering(data, format_name, number)
    assert changed != data
    path = tmp_path / f"a{SUFFIXES[format_name]}"
    path.write_bytes(changed)
    result = CliRunner().invoke(app, ["verify", str(path)])
    assert result.exit_code in (1, 2), result.output
    assert any(words in result.output for words in WORDS[tampering]), result.output
