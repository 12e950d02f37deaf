"""Pictures from strangers: what is whole and ordinary passes, everything else is an InputError."""

import base64
import io
import urllib.parse

import pytest
from http_pictures import as_base64, bomb, chunk, odd_modes, picture, png, polyglots, text_bomb
from PIL import Image

from kleinod.errors import InputError
from kleinod.server import incoming
from kleinod.server.incoming import PictureLimits

LIMITS = PictureLimits(2**20, 2**20)


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *((f, "RGB") for f in ("PNG", "JPEG", "WEBP", "GIF", "AVIF")),
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGBA", "I;16")),
        *(("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA"), ("GIF", "P")),
    ],
)
def test_ordinary_picture_passes_unchanged(format: str, mode: str) -> None:
    data = picture(mode, format=format)
    checked = incoming.check(data, "input_image", limits=LIMITS)
    assert (checked.data, checked.width, checked.height) == (data, 96, 80)


def test_progressive_animated_and_padded_files_pass() -> None:
    frames = [Image.effect_noise((80, 80), 40) for _ in range(3)]
    for format in ("GIF", "WEBP", "AVIF"):
        file = io.BytesIO()
        frames[0].save(file, format, save_all=True, append_images=frames[1:])
        incoming.check(file.getvalue(), "image", limits=LIMITS)
    incoming.check(picture(format="JPEG", progressive=True), "image", limits=LIMITS)
    incoming.check(picture() + bytes(64), "image", limits=LIMITS)


def test_camera_file_with_a_second_jpeg_passes() -> None:
    data = picture(format="JPEG") + picture(format="JPEG", size=(64, 64))
    assert incoming.check(data, "image", limits=LIMITS).width == 96


def test_size_is_told_as_exif_turns_it() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    checked = incoming.check(picture(format="JPEG", exif=exif), "image", limits=LIMITS)
    assert (checked.width, checked.height) == (80, 96)


@pytest.mark.parametrize("name", polyglots())
def test_polyglot_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"image: holds .* bytes after the picture's end"):
        incoming.check(polyglots()[name], "image", limits=LIMITS)


@pytest.mark.parametrize("name", odd_modes())
def test_odd_format_or_mode_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^image: "):
        incoming.check(odd_modes()[name], "image", limits=LIMITS)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (bomb(), "10000x10000 is over the limit"),
        (png(2**31 - 1, 2**31 - 1), "too many pixels"),
        (text_bomb(), "cannot be read|not a whole file"),
        (picture()[:-20], "no proper end|cannot be read"),
        (picture(format="JPEG")[:-200], "no proper end"),
        (picture(size=(32, 96)), "under 64 pixels"),
        (picture(size=(640, 64)), "longer than 8:1"),
        (b"", "not a whole file"),
        (b"\x89PNG\r\n\x1a\n", "not a whole file"),
        (bytes(2**20 + 1), "over the limit of 1048576"),
        (png(96, 96, data=b"too little"), "cannot be read"),
    ],
)
def test_broken_picture_is_refused_by_name(data: bytes, reason: str) -> None:
    with pytest.raises(InputError, match=rf"^input_image_2: .*({reason})") as caught:
        incoming.check(data, "input_image_2", limits=LIMITS)
    assert "\n" not in str(caught.value)


def test_picture_with_hidden_chunks_after_the_end_is_refused() -> None:
    with pytest.raises(InputError, match=r"after the picture's end"):
        incoming.check(picture() + chunk(b"tEXt", b"a\0b"), "image", limits=LIMITS)


@pytest.mark.parametrize(
    "text",
    [
        as_base64(picture()),
        as_base64(picture()).rstrip("="),
        base64.urlsafe_b64encode(picture()).decode(),
        "data:image/png;base64," + as_base64(picture()),
        "DATA:image/png;charset=utf-8;base64," + as_base64(picture()),
        "data:image/png," + urllib.parse.quote_from_bytes(picture()),
        base64.encodebytes(picture()).decode(),
    ],
)
def test_text_holds_the_file(text: str) -> None:
    assert incoming.decoded_text(text, "input_image", max_bytes=2**20) == picture_of(text)


def picture_of(text: str) -> bytes:
    """The file in a text whose noise is its own."""
    body = text.partition(",")[2] or text
    if text.startswith("data:image/png,"):
        return urllib.parse.unquote_to_bytes(body)
    clean = "".join(body.split()).replace("-", "+").replace("_", "/")
    return base64.b64decode(clean + "=" * (-len(clean) % 4))


@pytest.mark.parametrize(
    "text",
    [
        *("", "  ", "====", "fox.png", "file:///etc/passwd", "ftp://example.com/a.png", "é"),
        *("data:text/html;base64,PGI+", "data:", "data:image/png", "data:image/png;base64,%"),
        *("A" * 5, "gopher://127.0.0.1/", "javascript:alert(1)"),
    ],
)
def test_text_that_is_no_picture_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"^input_image: "):
        incoming.decoded_text(text, "input_image", max_bytes=1000)


def test_text_over_the_limit_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(InputError, match=r"over the limit of 1000"):
        incoming.decoded_text("A" * 10_000, "input_image", max_bytes=1000)
