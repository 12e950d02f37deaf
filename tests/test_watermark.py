"""The watermark is found after what happens to pictures, is faint, and not found elsewhere."""

import io
import time
from pathlib import Path

import attacks
import numpy as np
import pytest
from PIL import Image

from kleinod.errors import InputError
from kleinod.provenance import pattern, payload_code, reading, watermark, watermarking

PAYLOAD = 0x5AC396F01E87
COMMON = ("nothing", "JPEG 75", "WebP 80", "10 % darker", "cropped 10 % all round")
SCALED = ("resized 0.5", "resized 0.75", "resized 1.5 bicubic", "resized 0.75, JPEG 75")


def _read_after(attack: str, picture: Image.Image) -> reading.Reading:
    return watermark.read(attacks.ATTACKS[attack](picture))


# The payload's code


@pytest.mark.parametrize("payload", [0, 1, PAYLOAD, 2**48 - 1])
def test_payload_comes_back_from_its_code(payload: int) -> None:
    assert payload_code.decode(payload_code.encode(payload)) == payload


def test_code_corrects_noise_of_its_own_strength() -> None:
    noise = np.random.default_rng(0).normal(0, 1, (20, payload_code.CODE_BITS))
    sent = payload_code.encode(PAYLOAD)
    # about every sixth sign is wrong
    assert all(payload_code.decode((sent + row).astype(np.float32)) == PAYLOAD for row in noise)


def test_noise_is_no_payload() -> None:
    noise = np.random.default_rng(1).normal(0, 1, (50, payload_code.CODE_BITS))
    assert [payload_code.decode(row.astype(np.float32)) for row in noise] == [None] * 50


def test_pattern_is_the_same_on_every_machine() -> None:
    # a mark laid today must be found by every later version; levels are far from a rounding edge
    known = pattern.coefficients()
    assert (known.rows[:4].tolist(), known.columns[:4].tolist()) == (
        [-17, 11, -19, -2],
        [19, 1, 19, 17],
    )
    assert known.limit == 28
    assert known.phasors[0] == pytest.approx(0.047485 + 0.998872j, abs=1e-5)


# What it survives


@pytest.mark.parametrize(
    "name", ["chelsea", "face on white", "face on black", "tree on red", "white page"]
)
@pytest.mark.parametrize("attack", COMMON)
def test_payload_survives_at_512_pixels(name: str, attack: str) -> None:
    marked = watermark.mark(attacks.picture(name, 512), PAYLOAD)
    assert _read_after(attack, marked).payload == PAYLOAD


@pytest.mark.parametrize("attack", SCALED)
def test_payload_survives_resizing(attack: str) -> None:
    marked = watermark.mark(attacks.picture("bars on grey", 512), PAYLOAD)
    assert _read_after(attack, marked).payload == PAYLOAD


@pytest.mark.parametrize("name", [*attacks.PHOTOGRAPHS, *attacks.FLAT])
def test_small_picture_is_read_and_seen_after_jpeg(name: str) -> None:
    marked = watermark.mark(attacks.picture(name, 128), PAYLOAD)
    assert watermark.read(marked).payload == PAYLOAD
    assert _read_after("JPEG 75", marked).is_present
    assert _read_after("JPEG 90", marked).is_present


@pytest.mark.parametrize("name", ["tree on blue", "face on white", "chelsea"])
def test_brighter_picture_is_read(name: str) -> None:
    marked = watermark.mark(attacks.picture(name, 512), PAYLOAD)
    assert _read_after("10 % brighter", marked).payload == PAYLOAD


def test_sides_need_not_be_whole_tiles() -> None:
    picture = attacks.picture("rocket", 512).crop((3, 5, 3 + 210, 5 + 333))
    assert watermark.read(watermark.mark(picture, PAYLOAD)).payload == PAYLOAD


# What it costs


FLAT_COLOURS = ("white", "black", "#808080", "#3366cc", "#ff0000", "#00ff00", "#fe0301", "#f4efe0")


@pytest.mark.parametrize("side", [128, 200, 512])
@pytest.mark.parametrize("colour", FLAT_COLOURS)
def test_flat_colour_changes_by_one_level(colour: str, side: int) -> None:
    picture = Image.new("RGB", (side, side), colour)
    marked = watermark.mark(picture, PAYLOAD)
    assert _largest_change(picture, marked) == 1
    assert attacks.psnr(picture, marked) >= 48
    assert watermark.read(marked).payload == PAYLOAD


@pytest.mark.parametrize("slope", [0.3, 1, 2])
def test_gradient_changes_by_one_level(slope: float) -> None:
    across, down = np.meshgrid(np.arange(128), np.arange(128))
    grey = np.rint(across * slope / 2 + down * slope / 2).astype(np.uint8)
    picture = Image.fromarray(grey).convert("RGB")
    assert _largest_change(picture, watermark.mark(picture, PAYLOAD)) == 1


def test_grain_of_a_decoder_is_no_texture() -> None:
    noise = np.random.default_rng(0).normal(0, 0.8, (256, 256, 3))
    picture = Image.fromarray(np.rint(200 + noise).astype(np.uint8))
    change = np.asarray(watermark.mark(picture, PAYLOAD), int) - np.asarray(picture)
    assert np.mean(abs(change) > 1) < 0.001


@pytest.mark.parametrize("name", [*attacks.PHOTOGRAPHS, *attacks.FLAT])
def test_mark_is_faint(name: str) -> None:
    for side in (128, 512):
        picture = attacks.picture(name, side)
        limit = 38 if name in attacks.PHOTOGRAPHS else 45
        assert attacks.psnr(picture, watermark.mark(picture, PAYLOAD)) >= limit


def test_edge_leaves_its_flat_sides_alone() -> None:
    picture = np.full((256, 256, 3), 90, np.uint8)
    picture[:, 128:] = 170
    change = watermarking.embed(picture, PAYLOAD).astype(int) - picture
    assert abs(change).max() == 1


# Earlier versions


def test_mark_of_version_1_is_still_read() -> None:
    with Image.open(Path(__file__).parent / "data" / "watermark-v1.png") as old:
        assert watermark.read(old).payload == PAYLOAD
        assert _read_after("JPEG 75", old.convert("RGB")).is_present


def test_version_1_still_embeds_the_same_pixels() -> None:
    again = watermark.mark(attacks.picture("tree on blue", 128), PAYLOAD, version=1)
    with Image.open(Path(__file__).parent / "data" / "watermark-v1.png") as old:
        assert again.tobytes() == old.tobytes()


@pytest.mark.parametrize("version", [0, 3, "2", None, True])
def test_unknown_version_is_refused(version: object) -> None:
    with pytest.raises(InputError, match=r"watermark\.version"):
        watermark.mark(Image.new("RGB", (64, 64)), PAYLOAD, version=version)


def _largest_change(one: Image.Image, other: Image.Image) -> int:
    return int(abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_marking_costs_little_beside_writing_the_file() -> None:
    """Both in turn on this machine; 13 of 446 ms seen at a megapixel, 25 are allowed.

    The least of each counts: other programs can make a turn slower, never faster.
    """
    picture = np.asarray(attacks.picture("astronaut", 1024))
    marking_s, writing_s = [], []
    for _ in range(10):
        start = time.process_time()
        watermarking.embed(picture, PAYLOAD)
        marking_s.append(time.process_time() - start)
        start = time.process_time()
        Image.fromarray(picture).save(io.BytesIO(), "PNG")
        writing_s.append(time.process_time() - start)
        if min(marking_s) < 25 / 446 * min(writing_s):
            return
    assert min(marking_s) < 25 / 446 * min(writing_s)


# Where it is not


def test_unmarked_pictures_hold_none() -> None:
    found = [watermark.read(attacks.unmarked(seed, 128)) for seed in range(12)]
    assert not any(result.is_present for result in found)


def test_agreement_without_a_mark_keeps_under_the_bound() -> None:
    """The bound that the false alarm rate is computed from, on pictures with strong lines."""
    values = np.concatenate(
        [_agreements_of(attacks.unmarked(seed, 128)).ravel() for seed in range(30)]
    )
    for limit in (0.1, 0.15, 0.18):
        assert np.mean(values >= limit) <= np.exp(-pattern.NUM_SYNC * limit**2)


def test_thresholds_spend_less_than_one_in_a_million() -> None:
    # the first two questions are asked of two weightings
    places = 2, 2 * pattern.TILE**2, pattern.TILE**2 * reading.NUM_SCALES
    limits = reading.IN_PLACE_THRESHOLD, reading.MOVED_THRESHOLD, reading.SCALED_THRESHOLD
    spent = [
        n * np.exp(-pattern.NUM_SYNC * limit**2) for n, limit in zip(places, limits, strict=True)
    ]
    assert sum(spent) < 1e-6


def test_picture_smaller_than_a_tile_is_no_error() -> None:
    picture = Image.new("RGB", (64, 40), "orange")
    watermark.read(watermark.mark(picture, PAYLOAD))
    assert not watermark.read(Image.new("L", (1, 1))).is_present


def _agreements_of(picture: Image.Image) -> np.ndarray:
    luma = np.asarray(picture.convert("L"), np.float32)
    return reading._agreements(reading._folded(reading._evened(luma, reading._FINE)))
