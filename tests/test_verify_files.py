"""`kleinod verify` answers for every file in its own words; none ends in a traceback."""

import io
import json
import os
import random
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from reference_files import encode, png_chunk, png_with
from test_ingredients import sign
from typer.testing import CliRunner, Result

from kleinod.cli.app import app
from kleinod.errors import InputError
from kleinod.images import load_image
from kleinod.server.untrusted import incoming

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (72, 80, 3), dtype=np.uint8))
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF", "BMP", "PPM", "MPO")


def verify(path: Path, *options: str) -> Result:
    """The command's answer, in one line where it is an error."""
    result = CliRunner().invoke(app, ["verify", str(path), *options])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code in (0, 1, 2)
    if result.exit_code == 2:
        assert result.stderr.startswith("error: picture: ") and result.stderr.count("\n") == 1
        assert "BytesIO" not in result.stderr
    return result


@pytest.mark.parametrize("format_name", FORMATS)
def test_mutated_file_is_answered_by_all_that_read_pictures(
    format_name: str, tmp_path: Path
) -> None:
    exif = Image.Exif()
    exif[274], exif[270] = 6, "a fox"
    whole = encode(IMAGE, format_name, **({"exif": exif} if format_name != "PPM" else {}))
    dice, path = random.Random(format_name), tmp_path / "a.picture"
    limits = incoming.PictureLimits(2**20, 2**20)
    for number in range(60):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 8)):
            data[dice.randrange(len(data) if number % 2 else 300)] = dice.randrange(256)
        if number % 5 == 0:
            del data[dice.randrange(len(data)) :]
        if number % 4 == 0:  # the watermark's search takes the time
            path.write_bytes(data)
            verify(path)
        for read in (load_image, lambda data: incoming.check(data, "image", limits=limits)):
            try:
                read(bytes(data))
            except InputError as error:
                assert "\n" not in str(error)


@pytest.mark.parametrize("format_name", ["GIF", "TIFF", "MPO", "AVIF"])
def test_manifest_of_every_format_is_read(format_name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.picture"
    path.write_bytes(sign(encode(IMAGE, format_name), format_name))
    answer = json.loads(verify(path, "--json").stdout)
    assert answer["manifest"]["state"] == "valid" and answer["intact"]
    path.write_bytes(path.read_bytes().replace(b"a camera", b"a kamera"))
    answer = json.loads(verify(path, "--json").stdout)
    assert answer["manifest"]["state"] == "invalid" and not answer["intact"]


def test_huge_pictures_are_answered(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("1", (20000, 20000)).save(path)
    result = verify(path)
    assert result.exit_code == 1 and "too many pixels: 20000x20000" in result.stdout
    Image.new("L", (12000, 9000)).save(path, "JPEG")
    assert verify(path).exit_code == 0


def test_pipes_devices_and_what_is_no_picture(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))
    (tmp_path / "empty.png").touch()
    (tmp_path / "page.png").write_text("<!DOCTYPE html><html></html>")
    for name in ("pipe.png", "a.heic", "empty.png", "page.png", "absent.png", "."):
        assert verify(tmp_path / name).exit_code == 2
    for path in ("/dev/zero", "/dev/null"):
        assert verify(Path(path)).exit_code == 2


def test_broken_exif_is_no_fault_of_the_picture(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    for body in (b"b'Exif\\x00\\x00MM'", b"II*\0\x08\0\0\0" + struct.pack("<H", 9)):
        path.write_bytes(png_with(encode(IMAGE, "PNG"), png_chunk(b"eXIf", body)))
        result = verify(path)
        assert result.exit_code == 0 and "WRONG" not in result.stdout


def test_heic_without_a_decoder_still_has_its_manifest_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kleinod.images.formats.find_spec", lambda name: None)
    data = encode(IMAGE, "AVIF")
    # a file of AV1 pictures under HEIC's name: C2PA reads boxes, not pictures
    path = tmp_path / "a.heic"
    path.write_bytes(sign(data.replace(b"avif", b"heic").replace(b"avis", b"heic"), "HEIF"))
    result = verify(path)
    assert result.exit_code == 0 and "pip install pillow-heif" in result.stdout
    assert "byte for byte" in result.stdout


def test_buffer_names_are_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(io.BytesIO(b"\x89PNG\r\n\x1a\n").getvalue())
    assert "not a whole file of PNG" in verify(path).stderr
