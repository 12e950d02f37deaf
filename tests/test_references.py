"""References arrive as they look: colours, broken metadata, large files, every kind of source."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from reference_files import (
    ADOBE_RGB,
    DISPLAY_P3,
    PRO_PHOTO,
    cmyk_profile,
    encode,
    grey_profile,
    jpeg_with,
    png_chunk,
    png_with,
    rgb_profile,
)

from kleinod import images
from kleinod.errors import InputError
from kleinod.images import load_image, open_reference

SRGB = ImageCms.createProfile("sRGB")
COLORS = np.array(
    [(200, 30, 40), (30, 190, 60), (20, 60, 210), (128, 128, 128), (255, 255, 255), (250, 200, 5)]
)


def patches(*, mode: str = "RGB") -> Image.Image:
    """Six patches of 32 pixels, in two rows."""
    pixels = np.kron(COLORS.reshape(2, 3, 3), np.ones((32, 32, 1))).astype(np.uint8)
    return Image.fromarray(pixels).convert(mode)


def photograph(size: tuple[int, int]) -> Image.Image:
    """Smooth colours without large flat areas."""
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    channels = (x * 255, y * 255, (np.sin(x * 20) * np.cos(y * 15) + 1) * 127)
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


def difference(image: Image.Image, other: Image.Image) -> int:
    """The largest difference of a level."""
    return int(np.abs(np.asarray(image).astype(int) - np.asarray(other)).max())


def converted(image: Image.Image, profile: bytes) -> Image.Image:
    """By LittleCMS itself."""
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    return ImageCms.profileToProfile(image, source, SRGB, outputMode="RGB")


# Colours


@pytest.mark.parametrize("primaries", [DISPLAY_P3, ADOBE_RGB, PRO_PHOTO])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colors_of_other_spaces_are_converted(
    primaries: tuple[tuple[float, float, float], ...], format: str
) -> None:
    profile = rgb_profile(primaries, gamma=1.8 if primaries is PRO_PHOTO else 2.2)
    data = encode(patches(), format, icc_profile=profile)
    with Image.open(io.BytesIO(data)) as stored:
        expected = converted(stored.convert("RGB"), profile)
        assert difference(stored.convert("RGB"), expected) > 15  # there is something to convert
    assert difference(load_image(data), expected) <= 1


@pytest.mark.parametrize("gamma", [1.0, 1.8])
def test_grey_of_another_gamma_is_converted(gamma: float) -> None:
    profile = grey_profile(gamma)
    grey = patches(mode="L")
    assert (
        difference(load_image(encode(grey, "PNG", icc_profile=profile)), converted(grey, profile))
        <= 1
    )
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    loaded = load_image(encode(wide, "PNG", icc_profile=profile))
    assert difference(loaded, converted(grey, profile)) <= 1


@pytest.mark.parametrize("format", ["JPEG", "TIFF"])
def test_inks_are_converted_by_their_profile(format: str) -> None:
    inks = patches(mode="CMYK")
    data = encode(inks, format, icc_profile=cmyk_profile(), quality=100)
    with Image.open(io.BytesIO(data)) as stored:
        expected = converted(stored.copy(), cmyk_profile())
    assert difference(load_image(data), expected) <= 1
    assert difference(load_image(data), inks.convert("RGB")) > 15


def test_transparency_and_palettes_go_with_a_profile() -> None:
    profile = rgb_profile(DISPLAY_P3)
    image = patches().convert("RGBA")
    image.paste((0, 0, 0, 0), (0, 0, 32, 32))
    loaded = load_image(encode(image, "PNG", icc_profile=profile))
    expected = converted(patches(), profile)
    expected.paste("white", (0, 0, 32, 32))
    assert difference(loaded, expected) <= 1
    palette = patches().quantize(16)
    loaded = load_image(encode(palette, "PNG", icc_profile=profile))
    assert difference(loaded, converted(palette.convert("RGB"), profile)) <= 1


def test_srgb_is_left_exactly_as_it_is() -> None:
    profile = ImageCms.ImageCmsProfile(SRGB).tobytes()
    image = photograph((128, 96))
    for data in (encode(image, "PNG", icc_profile=profile), encode(image, "PNG")):
        assert difference(load_image(data), image) == 0


@pytest.mark.parametrize(
    "profile",
    [
        *(b"", b"nonsense", rgb_profile(DISPLAY_P3)[:200], bytes(500)),
        *(grey_profile(1.0), cmyk_profile()),  # of another kind of colour than the pixels
        rgb_profile(DISPLAY_P3).replace(b"rXYZ", b"zzzz"),
    ],
)
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_profile_that_cannot_be_used_is_left_aside(profile: bytes, format: str) -> None:
    bare = encode(patches(), format)
    data = encode(patches(), format, icc_profile=profile) if profile else bare
    assert difference(load_image(data), load_image(bare)) == 0


def test_image_is_converted_and_turned_once_only() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encode(patches(), "PNG", icc_profile=rgb_profile(DISPLAY_P3), exif=exif)
    once = load_image(data)
    assert once.size == (64, 96)
    assert difference(load_image(once), once) == 0
    with Image.open(io.BytesIO(data)) as opened:  # a lazily opened picture, as users give it
        assert difference(load_image(opened), once) == 0
        assert opened.size == (96, 64)


def test_lab_becomes_rgb() -> None:
    lab = Image.new("LAB", (64, 64), (137, 128, 128))  # L* 53.7, a* and b* 0
    assert np.abs(np.subtract(load_image(encode(lab, "TIFF")).getpixel((9, 9)), 128)).max() <= 2


# Broken metadata beside whole pixels

_ORIENTATION_6 = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x112, 3, 1, 6) + b"\0\0\0\0"


def broken_metadata() -> dict[str, bytes]:
    """Files whose pixels are whole."""
    png, jpeg = encode(patches(), "PNG"), encode(patches(), "JPEG", quality=95)
    text = png_chunk(b"tEXt", b"Comment\0hello")
    raw = b"Raw profile type exif\0\0"
    return {
        "exif is the text of a bytes literal": png_with(png, png_chunk(b"eXIf", b"b'Exif\\x00'")),
        "exif is empty": png_with(png, png_chunk(b"eXIf", b"")),
        "exif is cut": png_with(png, png_chunk(b"eXIf", _ORIENTATION_6[:11])),
        "raw profile is not hexadecimal": png_with(
            png, png_chunk(b"zTXt", raw + zlib.compress(b"\nexif\n      12\nzzzz"))
        ),
        "raw profile is nothing": png_with(png, png_chunk(b"zTXt", raw + zlib.compress(b""))),
        "text has a wrong checksum": png_with(png, text[:-1] + b"\0"),
        "time has a wrong length": png_with(png, png_chunk(b"tIME", b"\0")),
        "density is cut": png_with(png, png_chunk(b"pHYs", b"\0\0")),
        "xmp is no xml": png_with(png, png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0\xff<x")),
        "text is not compressed": png_with(png, png_chunk(b"zTXt", b"Comment\0\0nothing")),
        "profile is not compressed": png_with(png, png_chunk(b"iCCP", b"x\0\0garbage")),
        "jpeg exif is garbage": jpeg_with(jpeg, 0xE1, b"Exif\0\0This is no EXIF"),
        "jpeg exif is cut": jpeg_with(jpeg, 0xE1, b"Exif\0\0" + _ORIENTATION_6[:12]),
        "jpeg xmp is broken": jpeg_with(
            jpeg, 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x tiff:Orientation="
        ),
        "jpeg mpf is broken": jpeg_with(jpeg, 0xE2, b"MPF\0MM\0*\0\0\0\x08\xff\xff"),
        "jpeg photoshop is broken": jpeg_with(jpeg, 0xED, b"Photoshop 3.0\x008BIM\xff\xff\xff"),
        "jpeg profile lacks a part": jpeg_with(jpeg, 0xE2, b"ICC_PROFILE\0\x02\x05nothing"),
    }


@pytest.mark.parametrize("name", broken_metadata())
def test_broken_metadata_beside_whole_pixels_are_left_aside(name: str) -> None:
    data = broken_metadata()[name]
    plain = encode(patches(), "JPEG", quality=95) if data[:2] == b"\xff\xd8" else patches()
    loaded = load_image(data)
    expected = load_image(plain)
    assert difference(loaded, expected) == 0


def test_orientation_is_read_although_the_rest_of_exif_is_broken() -> None:
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + struct.pack("<H", 2)
    exif += struct.pack("<HHII", 0x112, 3, 1, 6) + struct.pack("<HHII", 0x8769, 4, 1, 0x7FFFFFFF)
    data = jpeg_with(encode(patches(), "JPEG"), 0xE1, exif + struct.pack("<I", 8))
    assert load_image(data).size == (64, 96)


# Large pictures


def large_jpeg(tmp_path: Path, size: tuple[int, int], **options: object) -> Path:
    """Of a pattern that is easy to see at any size."""
    path = tmp_path / "large.jpg"
    photograph((size[0] // 16, size[1] // 16)).resize(size, Image.Resampling.NEAREST).save(
        path, "JPEG", **options
    )
    return path


@pytest.mark.parametrize("size", [(11656, 8742), (20000, 5000)])
def test_large_jpeg_is_decoded_at_a_fraction(tmp_path: Path, size: tuple[int, int]) -> None:
    image = load_image(large_jpeg(tmp_path, size))
    assert 2**22 <= image.width * image.height <= 2**24
    assert image.width / image.height == pytest.approx(size[0] / size[1], rel=1e-3)
    small = image.resize((size[0] // 64, size[1] // 64), Image.Resampling.BOX)
    expected = photograph((size[0] // 16, size[1] // 16)).resize(small.size, Image.Resampling.BOX)
    assert np.abs(np.asarray(small).astype(int) - np.asarray(expected)).mean() < 2


@pytest.mark.parametrize(
    ("format", "mode"), [("PNG", "RGB"), ("PNG", "P"), ("PNG", "1"), ("TIFF", "I;16")]
)
def test_other_large_pictures_come_out_smaller(format: str, mode: str) -> None:
    small = photograph((80, 64))
    large = small.resize((80 * 64, 64 * 64), Image.Resampling.NEAREST)
    stored = Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257)
    stored = stored if mode == "I;16" else large.convert(mode)
    image = load_image(encode(stored, format))
    assert image.size == (80 * 32, 64 * 32)
    if mode in ("RGB", "I;16"):
        expected = small if mode == "RGB" else small.convert("L").convert("RGB")
        assert difference(image.resize(small.size, Image.Resampling.BOX), expected) <= 1


def test_too_many_pixels_are_one_line(tmp_path: Path) -> None:
    Image.new("1", (12000, 12000)).save(tmp_path / "a.png")
    bitmap = bytearray(encode(Image.new("RGB", (64, 64)), "BMP"))
    bitmap[18:26] = struct.pack("<ii", 30000, 30000)
    (tmp_path / "a.bmp").write_bytes(bitmap)
    progressive = bytearray(encode(Image.new("L", (64, 64)), "JPEG", progressive=True))
    at = progressive.index(b"\xff\xc2") + 5
    progressive[at : at + 4] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(progressive)
    for name in ("a.png", "a.bmp", "a.jpg"):
        with pytest.raises(InputError, match="too many pixels") as caught:
            load_image(tmp_path / name)
        assert "\n" not in str(caught.value)


_PEAK = """
import resource, sys
from kleinod import images
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    images.load_image(sys.argv[1])
except Exception as error:
    print(error)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_large_pictures_take_no_gigabytes(format: str, tmp_path: Path) -> None:
    side = {"JPEG": 16000, "PNG": 9400, "WEBP": 7000}[format]
    options = {"lossless": True} if format == "WEBP" else {}
    path = tmp_path / f"a.{format.lower()}"
    Image.new("RGB", (side, side), (10, 90, 200)).save(path, format, **options)
    output = subprocess.run(
        [sys.executable, "-c", _PEAK, str(path)], capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(output) == 1 and int(output[0]) < {"JPEG": 200, "PNG": 600, "WEBP": 1000}[format]


# Every kind of source


def test_every_source_gives_the_same_pixels(tmp_path: Path) -> None:
    image = patches()
    data, path = encode(image, "PNG"), tmp_path / "ä b.png"
    path.write_bytes(data)
    with path.open("rb") as file:
        sources = [
            *(path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data)),
            *(file, image, np.asarray(image)),
        ]
        opened = [open_reference(source) for source in sources]
    assert all(difference(one.image, image) == 0 for one in opened)
    assert [one.data for one in opened] == [data] * 7 + [None] * 2
    assert [one.format_name for one in opened] == ["PNG"] * 7 + [None] * 2
    assert opened[0].name == opened[1].name == opened[6].name == "ä b.png"
    assert open_reference(data, name="reference 2").name == "reference 2"


def test_arrays_of_other_shapes() -> None:
    grey = np.arange(64 * 64, dtype=np.uint16).astype(np.uint8).reshape(64, 64)
    assert difference(load_image(grey), load_image(grey[..., None])) == 0
    clear = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    assert load_image(clear).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (None, "NoneType"),
        (torch.zeros(3, 64, 64), "Tensor"),
        (7, "int"),
        ([b"a"], "list"),
        (np.zeros((64, 64, 3), np.float32), "float32, 64 x 64 x 3"),
        (np.zeros((3, 64, 64), np.uint8), "uint8, 3 x 64 x 64"),
        (np.zeros((0, 64, 3), np.uint8), "0 x 64 x 3"),
        (io.StringIO("text"), "binary mode"),
        ("https://example.com/a.png", "URL"),
        ("a\0b.png", "null byte"),
        ("x" * 5000, "name too long"),
        (b"\x89PNG\r\n\x1a\n" + bytes(10**6), "not a whole file"),
        (b"", "empty"),
    ],
)
def test_what_is_no_picture_is_one_short_line(source: object, words: str) -> None:
    with pytest.raises(InputError, match=r"^reference_images: ") as caught:
        load_image(source)
    message = str(caught.value)
    assert words.lower() in message.lower() and "\n" not in message and len(message) < 600


def test_closed_file_and_closed_picture_are_one_line(tmp_path: Path) -> None:
    patches().save(tmp_path / "a.png")
    with (tmp_path / "a.png").open("rb") as file:
        pass
    closed = Image.open(tmp_path / "a.png")
    closed.close()
    for source in (file, closed):
        with pytest.raises(InputError, match="closed"):
            load_image(source)


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero"), Path("/dev/null"), tmp_path):
        with pytest.raises(InputError, match=r"regular file|Is a directory"):
            load_image(path)


def test_name_of_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / "a\x1b[31m\nerror: b\u202e.png"
    path.write_bytes(b"no picture")
    with pytest.raises(InputError) as caught:
        load_image(path)
    assert str(caught.value).isprintable()


def test_file_over_the_limit_of_bytes_is_refused(tmp_path: Path) -> None:
    limits = images.ReferenceLimits(max_bytes=1000)
    (tmp_path / "a.png").write_bytes(encode(photograph((200, 200)), "PNG"))
    for source in (tmp_path / "a.png", (tmp_path / "a.png").read_bytes()):
        with pytest.raises(InputError, match="over the limit of 1000 bytes"):
            open_reference(source, limits=limits)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400), "a HEIC file"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(400), "a HEIC file"),
        (b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(200), "a JPEG XL file"),
        (b"\xff\x0a" + bytes(200), "a JPEG XL file"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "an SVG drawing"),
        (b"<!DOCTYPE html><html>404</html>", "a web page"),
        (b"%PDF-1.7\n", "a PDF document"),
        (b"8BPS" + bytes(40), "a Photoshop file"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isommp42", "a video"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    ],
)
def test_other_kinds_of_files_are_named(
    data: bytes, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kleinod.images.formats.find_spec", lambda name: None)
    with pytest.raises(InputError, match=words) as caught:
        load_image(data)
    if "HEIC" in words:
        assert "pip install pillow-heif, or save it as JPEG" in str(caught.value)


def test_heic_is_read_where_its_plugin_is_installed() -> None:
    heif = pytest.importorskip("pillow_heif", reason="a plugin of Pillow, not installed here")
    file = io.BytesIO()
    heif.from_pillow(patches()).save(file, quality=100)
    opened = open_reference(file.getvalue())
    assert opened.format_name == "HEIF"
    assert np.abs(np.asarray(opened.image).astype(int) - np.asarray(patches())).mean() < 4
