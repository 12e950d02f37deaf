"""A receipt survives in every kind of file, says enough to repeat, and no more than it may."""

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from test_manifest import RECEIPT

from kleinod import catalog
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError
from kleinod.provenance import container, facts
from kleinod.provenance import receipt as receipts
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.request import Components, ImageRequest


def _draft(
    model: Path,
    *,
    options: ProvenanceOptions,
    **fields: Any,  # noqa: ANN401 - those of ImageRequest
) -> receipts.Receipt:
    sampler = load_sampler(model)
    request = sampler.resolve(ImageRequest("a fox in the snow", seed=7, **fields))
    files = facts.model_files(model, Components())
    references = fields.get("reference_images", ())
    return facts.draft_receipts(sampler, request, files, options, references=references)[-1]


@pytest.mark.parametrize("format_name", sorted(set(container.FORMATS.values())))
def test_receipt_comes_back_from_the_file(format_name: str) -> None:
    data = container.encoded(Image.new("RGB", (64, 64), "red"), format_name, RECEIPT)
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.format == format_name
        assert container.receipt_in(picture) == RECEIPT


def test_picture_without_a_receipt_has_none() -> None:
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9286] = b"ASCII\0\0\0a remark"
    Image.new("RGB", (64, 64)).save(buffer, "JPEG", exif=exif)
    assert container.receipt_in(Image.open(buffer)) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is none of kleinod-receipt/1"),
        ('{"schema": "kleinod-receipt/2"}', "is none of kleinod-receipt/1"),
        (json.dumps(RECEIPT | {"model": None}), "has no model.name"),
        (" " * 5_000_000, "is over"),
    ],
)
def test_what_is_no_receipt_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        receipts.from_json(text, "a.png")


def test_words_too_long_for_a_jpeg_are_refused_before_painting() -> None:
    container.check_words("fox " * 20_000, "PNG")
    container.check_words("ü" * 8_000, "JPEG")
    with pytest.raises(InputError, match=r"^prompt: .* write a PNG, or .*private"):
        container.check_words("ü" * 9_000, "JPEG")


def test_receipt_says_what_repeats_the_picture(tiny_model: Path) -> None:
    reference = Image.new("RGB", (96, 80), "brown")
    draft = _draft(
        tiny_model, options=ProvenanceOptions(), num_images=3, reference_images=(reference,)
    )
    digest = hashlib.sha256(b"96x80 RGB\n" + reference.tobytes()).hexdigest()
    assert draft["request"] == {
        "prompt": "a fox in the snow",
        "negative_prompt": "",
        "width": 96,
        "height": 80,
        "num_inference_steps": 2,
        "guidance_scale": 1.0,
        "seed": 9,
        "reference_images": [{"width": 96, "height": 80, "pixels_sha256": digest}],
    }
    assert draft["batch"] == {"size": 3}
    assert (draft["numbers"]["dtype"], draft["device"]["type"]) == ("bfloat16", "cpu")
    assert (draft["c2pa"], draft["watermark"]) == (
        "on",
        {"method": "robust", "version": 2},
    )
    assert draft == json.loads(receipts.to_json(draft))
    files = {file["component"]: file for file in draft["model"]["files"]}
    assert files.keys() == {"transformer", "text_encoder", "autoencoder", "tokenizer"}
    assert files["transformer"]["formats"] == ["F32"]
    assert files["transformer"]["name"] == "model.safetensors"
    assert str(tiny_model.parent) not in receipts.to_json(draft)


def test_private_receipt_holds_no_words(tiny_model: Path) -> None:
    draft = _draft(tiny_model, options=ProvenanceOptions(private=True))
    assert draft["request"]["is_private"] is True
    assert "fox" not in receipts.to_json(draft)


def test_receipt_says_what_is_off(tiny_model: Path) -> None:
    draft = _draft(tiny_model, options=ProvenanceOptions(watermark="none", c2pa=False))
    assert (draft["c2pa"], draft["watermark"]) == ("off", {"method": "none"})


def test_full_hash_is_that_of_the_file(tiny_model: Path) -> None:
    (file, *_) = facts.model_files(tiny_model, Components(), full_hashes=True)
    data = (tiny_model / "transformer" / "model.safetensors").read_bytes()
    assert (file.sha256, file.num_bytes) == (hashlib.sha256(data).hexdigest(), len(data))


def test_hashes_are_kept_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalog, "cache_folder", lambda: tmp_path / "cache")
    file, read = tmp_path / "a.safetensors", []

    def hashed(path: Path) -> str:
        read.append(path)
        return hashlib.sha256(path.read_bytes()).hexdigest()

    monkeypatch.setattr(facts, "_full", hashed)
    for content in (b"one", b"one", b"two"):
        if not file.exists() or file.read_bytes() != content:
            file.write_bytes(content)
            os.utime(file, ns=(len(read), len(read)))
        known = facts._KnownHashes()
        assert known.hash(file, "full") == hashlib.sha256(content).hexdigest()
        known.save()
    assert len(read) == 2


def test_cache_that_cannot_be_used_is_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.safetensors"
    file.write_bytes(b"one")
    for folder in (None, Path("/proc/kleinod"), tmp_path / "broken"):
        monkeypatch.setattr(catalog, "cache_folder", lambda folder=folder: folder)
        if folder == tmp_path / "broken":
            folder.mkdir()
            (folder / "hashes.json").write_text("{")
        known = facts._KnownHashes()
        known.hash(file, "sampled")
        known.save()


def test_payload_is_the_receipts_own_hash() -> None:
    payload = receipts.payload_of(RECEIPT)
    assert 0 <= payload < 2**48
    marked = receipts.with_mark(RECEIPT, payload, Image.new("RGB", (64, 64)))
    assert marked["watermark"]["payload"] == f"{payload:012x}"
    assert receipts.payload_of(marked) == payload
    other = marked | {"request": marked["request"] | {"seed": 8}}
    assert receipts.payload_of(other) != payload


def test_differences_name_the_line() -> None:
    other = RECEIPT | {"numbers": {"dtype": "bfloat16"}}
    assert receipts.differences(RECEIPT, other) == ["numbers.dtype: float32 then, bfloat16 now"]
    assert receipts.differences(RECEIPT, RECEIPT) == []


def test_version_of_the_watermark_is_covered_by_the_payload() -> None:
    older = RECEIPT | {"watermark": {"method": "robust"}}
    newer = RECEIPT | {"watermark": {"method": "robust", "version": 2}}
    assert receipts.payload_of(older) != receipts.payload_of(newer)
