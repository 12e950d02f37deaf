"""References of every kind become the same 8-bit RGB; broken ones are one clear error."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kleinod.errors import InputError, NumericalError
from kleinod.images import load_image, prepare_reference, to_images, to_tensor

RED, GREEN, WHITE = (200, 30, 40), (20, 180, 60), (255, 255, 255)
EXIF_ORIENTATION = 274
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _saved(image: Image.Image, path: Path, **options: object) -> Path:
    image.save(path, **options)
    return path


def _two_halves(size: tuple[int, int] = (64, 64)) -> Image.Image:
    """Left half red, right half green."""
    image = Image.new("RGB", size, RED)
    image.paste(GREEN, (size[0] // 2, 0, *size))
    return image


def _corners(image: Image.Image) -> tuple[object, object]:
    return image.getpixel((0, 0)), image.getpixel((image.width - 1, image.height - 1))


@pytest.mark.parametrize("suffix", ["png", "bmp", "tiff", "webp", "ppm"])
def test_lossless_formats_keep_every_pixel(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    path = _saved(_two_halves(), tmp_path / f"a.{suffix}", **options)
    assert np.array_equal(np.asarray(load_image(path)), np.asarray(_two_halves()))


def test_cmyk_becomes_rgb(tmp_path: Path) -> None:
    # cyan 255, magenta 0, yellow 0, black 0 is pure cyan; black 255 is black
    for ink, expected in (((255, 0, 0, 0), (0, 255, 255)), ((0, 0, 0, 255), (0, 0, 0))):
        path = _saved(Image.new("CMYK", (64, 64), ink), tmp_path / "a.tiff")
        assert load_image(path).getpixel((5, 5)) == expected


def test_cmyk_jpeg_becomes_rgb(tmp_path: Path) -> None:
    path = _saved(Image.new("CMYK", (64, 64), (0, 255, 255, 0)), tmp_path / "a.jpg", quality=100)
    assert np.abs(np.subtract(load_image(path).getpixel((5, 5)), (255, 0, 0))).max() <= 3


def test_palette_becomes_its_colours(tmp_path: Path) -> None:
    path = _saved(_two_halves().convert("P", palette=Image.Palette.ADAPTIVE), tmp_path / "a.png")
    with Image.open(path) as saved:
        assert saved.mode == "P"
    assert _corners(load_image(path)) == (RED, GREEN)


def test_palette_with_transparency_is_laid_over_white(tmp_path: Path) -> None:
    palette = Image.new("P", (64, 64), 0)
    palette.putpalette([*RED, *GREEN])
    palette.paste(1, (32, 0, 64, 64))
    path = _saved(palette, tmp_path / "a.png", transparency=0)
    assert _corners(load_image(path)) == (WHITE, GREEN)


def test_alpha_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (64, 64), (*RED, 0))
    image.paste((*GREEN, 255), (32, 0, 64, 64))
    image.putpixel((1, 1), (0, 0, 0, 51))
    loaded = load_image(_saved(image, tmp_path / "a.png"))
    assert _corners(loaded) == (WHITE, GREEN)
    assert loaded.getpixel((1, 1)) == (204, 204, 204)  # a fifth of black over white


def test_grey_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    image = Image.new("LA", (64, 64), (0, 0))
    image.paste((90, 255), (32, 0, 64, 64))
    assert _corners(load_image(_saved(image, tmp_path / "a.png"))) == (WHITE, (90, 90, 90))


def test_colour_marked_as_transparent_is_laid_over_white(tmp_path: Path) -> None:
    path = _saved(_two_halves(), tmp_path / "a.png", transparency=RED)
    assert _corners(load_image(path)) == (WHITE, GREEN)


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bits_keep_the_brightness(tmp_path: Path, suffix: str) -> None:
    levels = np.array([0, 128, 257, 25700, 32896, 65535], dtype=np.uint16)
    image = Image.fromarray(np.tile(levels, (64, 11)))
    assert image.mode == "I;16"
    loaded = load_image(_saved(image, tmp_path / f"a.{suffix}"))
    # value / 257, rounded
    assert [loaded.getpixel((x, 0))[0] for x in range(6)] == [0, 0, 1, 100, 128, 255]


def test_sixteen_bit_grey_marked_as_transparent_becomes_white(tmp_path: Path) -> None:
    levels = np.full((64, 64), 1000, dtype=np.uint16)
    levels[:, 32:] = 25700
    path = tmp_path / "a.png"
    path.write_bytes(_grey16_png(levels, transparent=1000))
    assert _corners(load_image(path)) == (WHITE, (100, 100, 100))


def _grey16_png(levels: np.ndarray, *, transparent: int) -> bytes:
    """A PNG written by the book: Pillow cannot write tRNS for 16 bits."""
    height, width = levels.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0)),
        (b"tRNS", struct.pack(">H", transparent)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    )
    return PNG_SIGNATURE + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    """A PNG chunk: length, kind, data, checksum."""
    checksum = struct.pack(">I", zlib.crc32(kind + data))
    return struct.pack(">I", len(data)) + kind + data + checksum


def test_sixteen_bit_colour_keeps_the_brightness(tmp_path: Path) -> None:
    values = np.array([200, 30, 40]) * 257
    body = " ".join(map(str, values)) + " "
    (tmp_path / "a.ppm").write_text(f"P3 64 64 65535 {body * (64 * 64)}")
    assert load_image(tmp_path / "a.ppm").getpixel((9, 9)) == RED


def test_floats_from_zero_to_one_keep_the_brightness(tmp_path: Path) -> None:
    values = np.full((64, 64), 0.5, dtype=np.float32)
    values[0, 0] = 1.0
    path = _saved(Image.fromarray(values), tmp_path / "a.tiff")
    assert _corners(load_image(path)) == (WHITE, (128, 128, 128))


def test_floats_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = _saved(Image.fromarray(np.full((64, 64), np.nan, np.float32)), tmp_path / "a.tiff")
    with pytest.raises(InputError, match="not finite"):
        load_image(path)


def test_bilevel_becomes_black_and_white(tmp_path: Path) -> None:
    image = Image.new("1", (64, 64), 0)
    image.paste(1, (32, 0, 64, 64))
    assert _corners(load_image(_saved(image, tmp_path / "a.png"))) == ((0, 0, 0), WHITE)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (64, 80, 3), dtype=np.uint8)
    upright = {  # the standard's words: where row 0 and column 0 are in the picture as seen
        1: pixels,
        2: pixels[:, ::-1],
        3: pixels[::-1, ::-1],
        4: pixels[::-1],
        5: pixels.transpose(1, 0, 2),
        6: np.rot90(pixels, -1),
        7: pixels[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(pixels, 1),
    }[orientation]
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    path = _saved(Image.fromarray(pixels), tmp_path / "a.png", exif=exif)
    assert np.array_equal(np.asarray(load_image(path)), upright)


@pytest.mark.parametrize("suffix", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation_is_taken(tmp_path: Path, suffix: str) -> None:
    frames = [Image.new("RGB", (64, 64), colour) for colour in (RED, GREEN)]
    options = {"lossless": True} if suffix == "webp" else {}
    path = _saved(
        frames[0], tmp_path / f"a.{suffix}", save_all=True, append_images=frames[1:], **options
    )
    with Image.open(path) as saved:
        assert saved.n_frames == 2
    assert load_image(path).getpixel((9, 9)) == RED


def test_a_picture_given_as_object_is_left_as_it_was() -> None:
    image = Image.new("RGBA", (64, 64), (*RED, 0))
    assert load_image(image).getpixel((0, 0)) == WHITE
    assert image.mode == "RGBA" and image.getpixel((0, 0)) == (*RED, 0)


@pytest.mark.parametrize("content", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n"])
def test_what_is_no_picture_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"^reference_images: cannot read .*a\.png"):
        load_image(tmp_path / "a.png")


def test_missing_file_and_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(InputError, match="cannot read"):
            load_image(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff", "ppm", "avif"])
def test_truncated_file_is_refused(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (80, 80, 3), dtype=np.uint8)
    path = _saved(Image.fromarray(noise), tmp_path / f"a.{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(InputError, match="cannot read"):
        load_image(path)


@pytest.mark.parametrize("side", [9_500, 60_000])
def test_decompression_bomb_is_refused(tmp_path: Path, side: int) -> None:
    # 9,500 squared is where Pillow only warns, 60,000 squared where it raises
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    chunks = _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"\0" * 1000))
    (tmp_path / "a.png").write_bytes(PNG_SIGNATURE + chunks)
    with pytest.raises(InputError, match="pixels"):
        load_image(tmp_path / "a.png")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "bmp", "tiff", "ppm"])
def test_mutated_file_is_read_or_refused(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 6
    buffer = io.BytesIO()
    formats = {"jpg": "JPEG", "tiff": "TIFF"}
    _two_halves().save(buffer, formats.get(suffix, suffix.upper()), exif=exif)
    whole, dice, path = buffer.getvalue(), random.Random(0), tmp_path / f"a.{suffix}"
    for _ in range(150):
        broken = bytearray(whole)
        for _ in range(dice.randint(1, 6)):
            broken[dice.randrange(min(len(broken), 400))] = dice.randrange(256)
        path.write_bytes(broken)
        try:
            assert load_image(path).mode == "RGB"
        except InputError as error:
            assert "cannot read" in str(error)


def test_reference_is_shrunk_to_a_megapixel_and_cropped_to_sixteens() -> None:
    assert prepare_reference(Image.new("RGB", (333, 517))).size == (320, 512)
    large = prepare_reference(Image.new("RGB", (3000, 2000)))
    assert large.size == (1248, 832)  # 1254 x 836 before the crop
    assert prepare_reference(Image.new("RGB", (640, 320)), max_pixels=128 * 128).size == (176, 80)


def test_crop_is_centred() -> None:
    pixels = np.arange(72 * 72, dtype=np.uint32).astype(np.uint8).reshape(72, 72)
    image = Image.fromarray(pixels).convert("RGB")
    cropped = np.asarray(prepare_reference(image))[..., 0]
    assert np.array_equal(cropped, pixels[4:68, 4:68])


@pytest.mark.parametrize("size", [(63, 200), (200, 63), (64, 513), (0, 0)])
def test_too_small_and_too_long_references_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=f"{size[0]}x{size[1]}"):
        prepare_reference(Image.new("RGB", size))


def test_tensor_and_picture_are_inverse() -> None:
    image = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).convert("RGB")
    tensor = to_tensor(image)
    assert tensor.shape == (1, 3, 16, 16)
    assert tensor.min() == -1 and tensor.max() == 1
    assert np.array_equal(np.asarray(to_images(tensor)[0]), np.asarray(image))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_not_finite_are_an_error(value: float) -> None:
    with pytest.raises(NumericalError, match="not finite"):
        to_images(torch.full((1, 3, 16, 16), value))
