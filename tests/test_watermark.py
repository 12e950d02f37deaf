"""The watermark is found after what happens to pictures, is faint, and not found elsewhere."""

import io
import time

import attacks
import numpy as np
import pytest
from PIL import Image

from kleinod.provenance import marking, pattern, payload_code, reading, watermark

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


@pytest.mark.parametrize("name", ["chelsea", "face on white", "tree on red"])
@pytest.mark.parametrize("attack", COMMON)
def test_payload_survives_at_512_pixels(name: str, attack: str) -> None:
    marked = watermark.mark(attacks.picture(name, 512), PAYLOAD)
    assert _read_after(attack, marked).payload == PAYLOAD


@pytest.mark.parametrize("attack", SCALED)
def test_payload_survives_resizing(attack: str) -> None:
    marked = watermark.mark(attacks.picture("bars on grey", 512), PAYLOAD)
    assert _read_after(attack, marked).payload == PAYLOAD


@pytest.mark.parametrize("name", [*attacks.PHOTOGRAPHS, *attacks.FLAT])
def test_small_picture_is_seen_after_jpeg_75_and_read_after_90(name: str) -> None:
    marked = watermark.mark(attacks.picture(name, 128), PAYLOAD)
    assert _read_after("JPEG 75", marked).is_present
    assert _read_after("JPEG 90", marked).payload == PAYLOAD


@pytest.mark.parametrize("name", ["tree on blue", "white page"])
def test_brighter_picture_is_read(name: str) -> None:
    marked = watermark.mark(attacks.picture(name, 512), PAYLOAD)
    assert _read_after("10 % brighter", marked).payload == PAYLOAD


def test_sides_need_not_be_whole_tiles() -> None:
    picture = attacks.picture("rocket", 512).crop((3, 5, 3 + 210, 5 + 333))
    assert watermark.read(watermark.mark(picture, PAYLOAD)).payload == PAYLOAD


# What it costs


@pytest.mark.parametrize("name", [*attacks.PHOTOGRAPHS, *attacks.FLAT])
def test_mark_is_faint(name: str) -> None:
    for side in (128, 512):
        picture = attacks.picture(name, side)
        # the white page pays for being read after it was made brighter: 37.2 seen
        limit = {"white page": 37}.get(name, 38 if name in attacks.PHOTOGRAPHS else 40)
        assert attacks.psnr(picture, watermark.mark(picture, PAYLOAD)) >= limit


def test_edge_of_a_flat_picture_gets_no_more_than_its_surface() -> None:
    picture = np.full((256, 256, 3), 90, np.uint8)
    picture[:, 128:] = 170
    change = marking.marked(picture, PAYLOAD).astype(int) - picture
    assert abs(change[:, 100:156].std() - change.std()) < 0.1
    assert change.std() == pytest.approx(marking.FLAT_STRENGTH, rel=0.05)


def test_marking_costs_little_beside_writing_the_file() -> None:
    """Both in turn on this machine; 13 of 446 ms seen at a megapixel, 25 are allowed.

    The least of each counts: other programs can make a turn slower, never faster.
    """
    picture = np.asarray(attacks.picture("astronaut", 1024))
    marking_s, writing_s = [], []
    for _ in range(10):
        start = time.process_time()
        marking.marked(picture, PAYLOAD)
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
    places = 1, pattern.TILE**2, pattern.TILE**2 * reading.NUM_SCALES
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
    return reading._agreements(reading._folded(reading._evened(luma)))
