"""Pictures from strangers: what is whole and ordinary passes, everything else is an InputError."""

import base64
import io
import urllib.parse

import pytest
from http_pictures import as_base64, bomb, chunk, odd_modes, picture, png, polyglots, text_bomb
from PIL import Image
from reference_files import samsung_trailer, video

from kleinod.errors import InputError
from kleinod.server.job_queue.job import Refused
from kleinod.server.untrusted import incoming
from kleinod.server.untrusted.incoming import PictureLimits

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


def _trailers() -> dict[str, bytes]:
    """What phones, cameras and hand-written clients leave behind a JPEG."""
    preview = picture(format="JPEG", size=(64, 64))
    return {
        "line break": b"\r\n",
        "filling": b"\xff" * 64,
        "zeros and a line break": bytes(512) + b"\n",
        "Samsung": samsung_trailer(),
        "Samsung and its video": video() + samsung_trailer(),
        "motion photograph": video(),
        "cut preview": preview[: len(preview) // 2],
        "preview and Samsung": preview[: len(preview) // 2] + samsung_trailer(),
        "vivo": b'vivo{"cameraFilter":"normal","beauty":0}cameraalbum!',
        "noise": bytes(range(1, 200)) * 20,
    }


@pytest.mark.parametrize("name", _trailers())
def test_what_phones_append_is_cut_off(name: str) -> None:
    data = picture(format="JPEG")
    checked = incoming.check(data + _trailers()[name], "image", limits=LIMITS)
    assert checked.data == data and checked.width == 96


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "AVIF"])
@pytest.mark.parametrize("trailer", [b"\r\n", b"\n", bytes(9), b"\xff" * 16, samsung_trailer()])
def test_padding_behind_other_formats_is_cut_off(format: str, trailer: bytes) -> None:
    data = picture(format=format)
    assert incoming.check(data + trailer, "image", limits=LIMITS).data == data


@pytest.mark.parametrize("padding", [b"", bytes(7)])
def test_every_picture_of_a_camera_file_is_kept(padding: bytes) -> None:
    pictures = [picture(format="JPEG", size=(96, side)) for side in (80, 64, 72)]
    checked = incoming.check(padding.join(pictures) + video(), "image", limits=LIMITS)
    assert checked.data == padding.join(pictures)


@pytest.mark.parametrize("between", [b"\r\n", b"\xff" * 9, samsung_trailer(), video()])
def test_archive_behind_what_phones_append_is_refused(between: bytes) -> None:
    archive = b"PK\x03\x04" + bytes(26) + b"PK\x05\x06" + bytes(18)
    with pytest.raises(InputError, match="after the picture's end"):
        incoming.check(picture(format="JPEG") + between + archive, "image", limits=LIMITS)


def test_pixels_of_a_request_have_a_limit_together() -> None:
    limits = PictureLimits(2**20, 2**20, max_request_pixels=2 * 96 * 80)
    files = [(f"input_image_{number}", picture()) for number in range(2)]
    assert len(incoming.check_all(files, limits=limits)) == 2
    with pytest.raises(InputError, match=r"^input_image_9: .* over 15360 pixels together"):
        incoming.check_all([*files, ("input_image_9", picture())], limits=limits)


def test_pixels_of_all_requests_have_a_limit() -> None:
    limits = PictureLimits(2**20, 2**20, max_decoding_pixels=96 * 80 + 1)
    with incoming._IN_FLIGHT.hold(2, limits.max_decoding_pixels):
        with pytest.raises(Refused, match="over the limit of 7681") as caught:
            incoming.check_all([("image", picture())], limits=limits)
        assert caught.value.retry_after_seconds >= 1
    assert len(incoming.check_all([("image", picture())], limits=limits)) == 1
    with pytest.raises(InputError):  # given back where a picture is refused, too
        incoming.check_all([("image", picture()[:-60])], limits=limits)
    assert len(incoming.check_all([("image", picture())], limits=limits)) == 1


def test_large_jpegs_count_as_what_is_decoded() -> None:
    limits = PictureLimits(2**24, 2**27, max_request_pixels=2**24)
    large = picture("L", (8192, 8192), format="JPEG")
    checked = incoming.check_all([("image", large)] * 2, limits=limits)
    assert {(one.width, one.height) for one in checked} == {(2048, 2048)}
    flat = picture("1", (8192, 8192))
    with pytest.raises(InputError, match="pixels together"):
        incoming.check_all([("image", flat)], limits=limits)


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
