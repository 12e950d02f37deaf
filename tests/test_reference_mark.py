"""The reference's mark is that of the package `invisible-watermark`, bit for bit, both ways."""

import io
from pathlib import Path

import attacks
import numpy as np
import pytest
from imwatermark import WatermarkDecoder, WatermarkEncoder
from PIL import Image
from tiny_folder import save_tiny_model
from typer.testing import CliRunner

from kleinod.cli import app
from kleinod.provenance import reference_mark

READABLE = ("astronaut", "chelsea", "rocket", "face on black", "tree on red", "bars on grey")


def _their_bits(picture: Image.Image) -> np.ndarray:
    decoder = WatermarkDecoder("bits", len(reference_mark.BITS))
    return np.array(decoder.decode(np.asarray(picture)[..., ::-1].copy(), "dwtDct"))


def _theirs(levels: np.ndarray) -> Image.Image:
    """Marked by the package, in the number format given, as the reference does it."""
    encoder = WatermarkEncoder()
    encoder.set_watermark("bits", list(reference_mark.BITS))
    marked = encoder.encode(levels[..., ::-1].copy(), "dwtDct")[..., ::-1]
    return Image.fromarray(np.clip(np.rint(marked), 0, 255).astype(np.uint8))


def _own_bits(picture: Image.Image) -> np.ndarray:
    return reference_mark.bits(reference_mark._chroma_of_bytes(np.asarray(picture)))


def test_bits_are_the_reference_constant() -> None:
    constant = 0b001010101111111010000111100111001111010100101110
    assert reference_mark.BITS == tuple(int(digit) for digit in bin(constant)[2:])
    assert len(reference_mark.BITS) == 46


def test_chroma_is_that_of_the_oracle() -> None:
    import cv2

    levels = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    theirs = cv2.cvtColor(levels[..., ::-1].copy(), cv2.COLOR_BGR2YUV)[..., 1]
    assert np.array_equal(reference_mark._chroma_of_bytes(levels), theirs)


@pytest.mark.parametrize("name", READABLE)
def test_mark_is_read_both_ways(name: str) -> None:
    picture = attacks.picture(name, 512)
    ours, theirs = reference_mark.mark(picture), _theirs(np.asarray(picture))
    assert np.array_equal(_their_bits(ours), reference_mark.BITS)
    assert reference_mark.read(theirs).num_right_bits == 46
    assert attacks.psnr(picture, ours) >= 38


@pytest.mark.parametrize("name", [*attacks.PHOTOGRAPHS, *attacks.FLAT])
def test_any_picture_gives_the_same_bits_as_the_oracle(name: str) -> None:
    picture = attacks.picture(name, 500)  # no whole number of blocks
    marked = reference_mark.mark(picture)
    for each in (picture, marked, attacks.ATTACKS["JPEG 75"](marked)):
        assert np.array_equal(_own_bits(each), _their_bits(each))


def test_mark_laid_into_floats_is_read() -> None:
    """The reference's own way; a reader of bytes finds 37 of 46 bits, and in chelsea none."""
    for name in ("astronaut", "chelsea", "bars on grey"):
        floats = np.asarray(attacks.picture(name, 512), np.float32)
        assert reference_mark.read(_theirs(floats)).is_present


def test_unmarked_pictures_hold_none() -> None:
    right = [reference_mark.read(attacks.unmarked(n, 128)).num_right_bits for n in range(60)]
    assert max(right) < 41


def test_small_pictures_are_no_error() -> None:
    for size in ((1, 1), (3, 9), (8, 8), (40, 24)):
        picture = Image.new("RGB", size, "orange")
        assert reference_mark.mark(picture).size == size
        assert not reference_mark.read(picture).is_present


# On the command line


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Path:
    folder = tmp_path_factory.mktemp("reference")
    save_tiny_model(folder / "tiny")
    return folder


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_reference_mark_is_written_verified_and_repeated(folder: Path, suffix: str) -> None:
    path = folder / f"a{suffix}"
    options = ("--model", folder / "tiny", "--seed", 7, "--width", 256, "--height", 256, "-o", path)
    status, text = _run("generate", "a fox", *options, "--watermark", "reference")
    assert status == 0, text
    assert np.mean(_their_bits(Image.open(path).convert("RGB")) == reference_mark.BITS) > 0.9
    status, text = _run("verify", path)
    assert status == 0
    assert "The pixels hold the mark of FLUX.2's reference code" in text
    status, text = _run("repeat", path, "--model", folder / "tiny")
    assert (status, text.splitlines()[-1]) == (0, "bit-equal: every pixel of the file is the same")


def test_format_that_destroys_the_mark_is_refused(folder: Path) -> None:
    options = ("--watermark", "reference", "-o", folder / "a.webp")
    status, text = _run("generate", "a fox", "--model", folder / "tiny", *options)
    assert status == 2
    assert text.startswith("error: --watermark: reference is lost in a WEBP file")


def test_lost_mark_is_missing_not_wrong(folder: Path) -> None:
    picture = folder / "white.png"
    buffer = io.BytesIO()
    reference_mark.mark(Image.new("RGB", (256, 256), "white")).save(buffer, "PNG")
    picture.write_bytes(buffer.getvalue())
    status, text = _run("verify", picture)
    assert status == 0 and "reference code" not in text
