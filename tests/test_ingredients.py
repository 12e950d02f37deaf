"""Whatever manifest a reference has, the signing after the painting does not fail for it."""

import io
import random
import struct
import zlib
from collections.abc import Callable

import c2pa
import numpy as np
import pytest
from PIL import Image
from reference_files import (
    avif_with_manifest,
    encode,
    jpeg_with,
    png_chunk,
    png_with,
    webp_with,
)

from kleinod.images import OpenedReference, open_reference
from kleinod.provenance import authority, container, ingredients, manifest
from kleinod.provenance.ingredients import PIXELS_ONLY, Ingredient, read_ingredients

IMAGE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 128, 3), dtype=np.uint8))
FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "GIF", "TIFF")
STORE = (
    struct.pack(">I", 60) + b"jumb" + struct.pack(">I", 40) + b"jumdc2pa"
    b"\0\x11\0\x10\x80\0\0\xaa\0\x38\x9b\x71\x03c2pa\0" + bytes(30)
)


def sign(data: bytes, format_name: str, parts: tuple[Ingredient, ...] = ()) -> bytes:
    """A file signed by a signer that nobody trusts, with these ingredients. Raises C2paError."""
    actions = [{"action": "c2pa.created", "digitalSourceType": manifest.SOURCE}]
    mime, out = container.READ_MIME[format_name], io.BytesIO()
    definition = {
        "claim_generator_info": [{"name": "a camera"}],
        "format": mime,
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }
    context = c2pa.Context(c2pa.Settings.from_dict(ingredients.SETTINGS))
    with c2pa.Builder(definition, context) as builder, _signer() as signer:
        for one in parts:
            kind = container.READ_MIME[one.format_name]
            facts = {"title": one.title, "format": kind, "relationship": "componentOf"}
            builder.add_ingredient(facts, kind, io.BytesIO(one.data))
        builder.sign(signer, mime, io.BytesIO(data), out)
    return out.getvalue()


def _signer() -> c2pa.Signer:
    identity = authority.temporary_identity()
    assert identity.key
    info = c2pa.C2paSignerInfo("es256", identity.certificates.encode(), identity.key.encode(), None)
    return c2pa.Signer.from_info(info)


@pytest.fixture(scope="module")
def signed() -> dict[str, bytes]:
    """Signed files of every format, each made of a signed PNG and a signed WebP."""
    first = Ingredient("a", sign(encode(IMAGE, "PNG"), "PNG"), "PNG")
    second = Ingredient("b", sign(encode(IMAGE, "WEBP"), "WEBP", (first,)), "WEBP")
    return {name: sign(encode(IMAGE, name), name, (first, second)) for name in FORMATS}


def opened(data: bytes, format_name: str) -> OpenedReference:
    """As `open_reference` gives it, without decoding each time."""
    return OpenedReference(IMAGE, data, format_name, "fox")


def flipped(data: bytes, format_name: str, dice: random.Random) -> bytes:
    """One bit of the manifest changed; in a PNG with the checksum that belongs to it."""
    start = data.index(b"jumb")
    size = len(data) - len(encode(IMAGE, format_name)) - 40
    changed = bytearray(data)
    changed[start + dice.randrange(size)] ^= 1 << dice.randrange(8)
    if format_name == "PNG":
        kind = data.index(b"caBX")
        end = kind + 4 + int.from_bytes(data[kind - 4 : kind], "big")
        changed[end : end + 4] = struct.pack(">I", zlib.crc32(changed[kind:end]))
    return bytes(changed)


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_flipped_bit_never_fails_the_signing(
    signed: dict[str, bytes], format_name: str
) -> None:
    dice, small, num_kept = random.Random(3), encode(Image.new("RGB", (8, 8)), "PNG"), 0
    for _ in range(50):
        changed = flipped(signed[format_name], format_name, dice)
        (one,) = read_ingredients([opened(changed, format_name)], ["fox"])
        sign(small, "PNG", (one,))
        num_kept += one.data == changed
    assert 10 < num_kept < 50  # some are read although they no longer hold, some cannot be


def damaged() -> dict[str, tuple[bytes, str]]:
    """Whole pictures with manifests that nobody can read."""
    files = {name: encode(IMAGE, name) for name in ("PNG", "JPEG", "WEBP", "AVIF")}
    carriers: dict[str, Callable[[bytes], bytes]] = {
        "PNG": lambda body: png_with(files["PNG"], png_chunk(b"caBX", body)),
        "JPEG": lambda body: jpeg_with(
            files["JPEG"], 0xEB, b"JP\0\x01\0\0\0\x01" + (body or STORE[:9])
        ),
        "WEBP": lambda body: webp_with(files["WEBP"], b"C2PA", body),
        "AVIF": lambda body: avif_with_manifest(files["AVIF"], body),
    }
    bodies = {"garbage": b"garbage " * 9, "cut": STORE[:40], "nothing but a frame": STORE}
    cases = {
        f"{name}, {body}": (carry(data), name)
        for name, carry in carriers.items()
        for body, data in bodies.items()
    }
    twice = png_with(files["PNG"], png_chunk(b"caBX", STORE), png_chunk(b"caBX", STORE))
    return cases | {"PNG, twice": (twice, "PNG")}


@pytest.mark.parametrize("name", damaged())
def test_damaged_manifest_leaves_the_pixels(name: str, caplog: pytest.LogCaptureFixture) -> None:
    data, format_name = damaged()[name]
    reference = open_reference(data, name="fox")
    assert reference.format_name == format_name
    (one,) = read_ingredients([reference], ["fox"])
    sign(encode(Image.new("RGB", (8, 8)), "PNG"), "PNG", (one,))
    if one.data == data:  # the library takes an empty frame for no manifest
        return
    assert one.title == f"fox ({PIXELS_ONLY})" and one.format_name == "PNG"
    with Image.open(io.BytesIO(one.data)) as kept:
        assert kept.tobytes() == reference.image.tobytes()
    assert len(caplog.messages) == 1 and "\n" not in caplog.messages[0]


def test_most_damaged_manifests_are_not_kept() -> None:
    kept = [
        name
        for name, (data, format_name) in damaged().items()
        if read_ingredients([opened(data, format_name)], ["fox"])[0].data == data
    ]
    assert len(kept) <= 3, kept


@pytest.mark.parametrize("format_name", FORMATS)
def test_whole_manifest_is_kept(signed: dict[str, bytes], format_name: str) -> None:
    (one,) = read_ingredients([opened(signed[format_name], format_name)], ["fox"])
    assert one == Ingredient("fox", signed[format_name], format_name)


def test_picture_beside_its_damaged_copy_is_kept(signed: dict[str, bytes]) -> None:
    dice, small = random.Random(1), encode(Image.new("RGB", (8, 8)), "PNG")
    for _ in range(10):
        copy = flipped(signed["JPEG"], "JPEG", dice)
        parts = read_ingredients([opened(signed["JPEG"], "JPEG"), opened(copy, "JPEG")], "ab")
        assert parts[0].data == signed["JPEG"]
        sign(small, "PNG", parts)


def test_reference_without_a_file_is_its_pixels() -> None:
    for one in (OpenedReference(IMAGE, None, None, "a"), open_reference(encode(IMAGE, "BMP"))):
        (part,) = read_ingredients([one], ["fox"])
        assert (part.title, part.format_name) == ("fox", "PNG")


def test_camera_file_of_several_pictures_keeps_its_manifest() -> None:
    file = io.BytesIO()
    IMAGE.save(file, "MPO", save_all=True, append_images=[IMAGE.resize((64, 48))])
    data = sign(file.getvalue(), "MPO")
    with Image.open(io.BytesIO(data)) as kept:
        assert kept.format == "MPO"
    reference = open_reference(data)
    (one,) = read_ingredients([reference], ["fox"])
    assert (one.data, one.format_name) == (data, "JPEG")
    assert manifest.judged(data, "JPEG").state == "valid"
