"""From Python, pictures are finished as on the command line: marked, with a receipt, signed."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

import kleinod
from kleinod.provenance import audit_reading, verification
from kleinod.provenance.audit import AuditLog
from kleinod.provenance.receipt import Choices


@pytest.fixture(scope="module")
def painter(tiny_model: Path) -> kleinod.Painter:
    return kleinod.Painter.load(tiny_model)


def test_picture_is_signed_and_repeatable(painter: kleinod.Painter, tmp_path: Path) -> None:
    size = {"width": 128, "height": 128}
    first, second = painter.generate("a fox", seed=7, num_images=2, **size)
    first.save(tmp_path / "a.png")
    found = verification.evidence(tmp_path / "a.png")
    summary = verification.summary(found)
    assert (summary["intact"], summary["manifest"]["state"]) == (True, "trusted")
    assert found.receipt == first.receipt
    assert [made.receipt["request"]["seed"] for made in (first, second)] == [7, 8]
    again = painter.generate("a fox", seed=7, num_images=2, **size)[0]
    assert again.receipt["picture"] == first.receipt["picture"]


def test_reference_keeps_its_manifest(painter: kleinod.Painter, tmp_path: Path) -> None:
    painter.generate("a fox", seed=7)[0].save(tmp_path / "fox.png")
    references = [str(tmp_path / "fox.png"), Image.new("RGB", (80, 64), "brown")]
    edited = painter.generate("both", reference_images=references, seed=7, format_name="JPEG")[0]
    edited.save(tmp_path / "both.jpg")
    manifest = verification.evidence(tmp_path / "both.jpg").manifest
    assert manifest.ingredients == (
        "fox.png (with a manifest of its own)",
        "reference 2 (without a manifest)",
    )


def test_choices_are_kept(tiny_model: Path) -> None:
    choices = Choices(watermark="none", is_signed=False, is_private=True)
    made = kleinod.Painter.load(tiny_model, choices=choices).generate("a fox", seed=7)[0]
    assert made.receipt["c2pa"] == "off" and "prompt" not in made.receipt["request"]
    assert Image.open(io.BytesIO(made.data)).format == "PNG"


def test_format_and_name_must_fit(painter: kleinod.Painter, tmp_path: Path) -> None:
    made = painter.generate("a fox", seed=7, format_name="WEBP")[0]
    with pytest.raises(kleinod.InputError, match="does not end as a WEBP file"):
        made.save(tmp_path / "a.png")
    with pytest.raises(kleinod.InputError, match="format_name: 'GIF' is none of PNG, JPEG"):
        painter.generate("a fox", format_name="GIF")


def test_pictures_stand_in_the_audit_log(
    painter: kleinod.Painter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(tmp_path / "audit.jsonl"))
    made = painter.generate("a fox", seed=7)[0]
    entry = json.loads((tmp_path / "audit.jsonl").read_text())
    assert entry["facts"]["watermark"] == made.receipt["watermark"]["payload"]
    assert not audit_reading.verify(AuditLog(tmp_path / "audit.jsonl")).problems
