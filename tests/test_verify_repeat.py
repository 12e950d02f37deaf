"""`kleinod verify` and `kleinod repeat` on pictures as they were written, and on changed ones."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_folder import save_tiny_model
from typer.testing import CliRunner, Result

from kleinod.cli import app
from kleinod.provenance import container, watermark
from kleinod.provenance import receipt as receipts

# 128 pixels hold the whole pattern of the watermark
SIZE = ("--width", "128", "--height", "128")


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def _generated(model: Path, path: Path, *arguments: object) -> Path:
    options = ("--model", model, "--seed", 7, "-o", path, *SIZE, *arguments)
    result = _run("generate", "a fox in the snow", *options)
    assert result.exit_code == 0, result.output
    return path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Path:
    """A folder with a model and pictures of it: signed, private, edited, with nothing."""
    folder = tmp_path_factory.mktemp("pictures")
    model = save_tiny_model(folder / "tiny")
    _generated(model, folder / "signed.png", "--receipt", folder / "signed.json")
    _generated(model, folder / "signed.jpg")
    _generated(model, folder / "private.webp", "--private")
    _generated(model, folder / "edited.png", "-r", folder / "signed.png")
    _generated(model, folder / "bare.png", "--watermark", "none", "--c2pa", "off")
    return folder


def _verified(path: Path) -> dict[str, Any]:
    result = _run("verify", path, "--json")
    summary: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if summary["intact"] else 1)
    return summary


# verify


@pytest.mark.parametrize("name", ["signed.png", "signed.jpg", "private.webp", "edited.png"])
def test_signed_picture_is_proved(pictures: Path, name: str) -> None:
    summary = _verified(pictures / name)
    assert summary["wrong"] == []
    assert summary["manifest"]["state"] == "trusted"
    assert summary["receipt"]["request"]["seed"] == 7
    assert summary["watermark"]["payload"] in (None, summary["receipt"]["watermark"]["payload"])


def test_verify_speaks_plain_words(pictures: Path) -> None:
    text = _run("verify", pictures / "signed.png").stdout
    assert "Proved (by a signature that holds):" in text
    assert "  - The file is, byte for byte, as it was signed." in text
    assert "  - Prompt: a fox in the snow" in text
    assert "WRONG" not in text and "Missing" not in text


def test_private_picture_lacks_its_words(pictures: Path) -> None:
    summary = _verified(pictures / "private.webp")
    assert b"snow" not in (pictures / "private.webp").read_bytes()
    assert any("prompt" in line.lower() for line in summary["missing"])


def test_edited_picture_names_its_reference(pictures: Path) -> None:
    manifest = _verified(pictures / "edited.png")["manifest"]
    assert manifest["actions"] == ["c2pa.opened", "c2pa.edited"]
    assert manifest["ingredients"] == ["signed.png (with a manifest of its own)"]


def test_bare_picture_says_what_was_switched_off(pictures: Path) -> None:
    summary = _verified(pictures / "bare.png")
    assert summary["proved"] == [] and summary["wrong"] == []
    assert sum("switched off" in line for line in summary["missing"]) == 2


def test_changed_byte_is_wrong(pictures: Path, tmp_path: Path) -> None:
    data = bytearray((pictures / "signed.jpg").read_bytes())
    data[-500] ^= 4
    (tmp_path / "a.jpg").write_bytes(data)
    summary = _verified(tmp_path / "a.jpg")
    assert summary["manifest"]["state"] == "invalid" and summary["proved"] == []
    assert "changed after it was signed" in summary["wrong"][0]


def _resaved(source: Path, target: Path, *, keeps_receipt: bool) -> np.ndarray:
    """What another program writes: pixels, and perhaps the text; never the manifest."""
    with Image.open(source) as picture:
        pixels, receipt = np.array(picture.convert("RGB")), container.receipt_in(picture)
    assert receipt is not None
    image = Image.fromarray(pixels)
    if keeps_receipt:
        target.write_bytes(container.encoded(image, "PNG", receipt))
    else:
        image.save(target)
    return pixels


def test_stripped_manifest_is_wrong(pictures: Path, tmp_path: Path) -> None:
    _resaved(pictures / "signed.png", tmp_path / "a.png", keeps_receipt=True)
    assert "the manifest is gone" in " ".join(_verified(tmp_path / "a.png")["wrong"])


def test_region_that_was_painted_over_is_wrong(pictures: Path, tmp_path: Path) -> None:
    _resaved(pictures / "bare.png", tmp_path / "a.png", keeps_receipt=True)
    assert _verified(tmp_path / "a.png")["intact"]
    with Image.open(tmp_path / "a.png") as picture:
        receipt = container.receipt_in(picture)
        picture.paste("red", (10, 10, 30, 30))
        assert receipt is not None
        (tmp_path / "b.png").write_bytes(container.encoded(picture, "PNG", receipt))
    assert "The pixels are not those" in " ".join(_verified(tmp_path / "b.png")["wrong"])


def test_edited_receipt_is_wrong(pictures: Path, tmp_path: Path) -> None:
    with Image.open(pictures / "signed.png") as picture:
        receipt = container.receipt_in(picture)
        assert receipt is not None
        receipt["request"]["prompt"] = "an owl"
        (tmp_path / "a.png").write_bytes(container.encoded(picture, "PNG", receipt))
    assert "receipt was edited" in " ".join(_verified(tmp_path / "a.png")["wrong"])


def test_watermark_tells_what_was_stripped(tmp_path: Path) -> None:
    from attacks import picture

    from kleinod.provenance import watermark

    watermark.mark(picture("face on white", 256), 77).save(tmp_path / "a.png")
    summary = _verified(tmp_path / "a.png")
    assert summary["watermark"]["payload"] == f"{77:012x}"
    assert "stripped" in " ".join(summary["wrong"])


def test_any_other_picture_claims_nothing(tmp_path: Path) -> None:
    for name in ("a.png", "a.bmp", "a.gif"):
        Image.new("RGB", (64, 64), "red").save(tmp_path / name)
        summary = _verified(tmp_path / name)
        assert (summary["proved"], summary["claimed"], summary["wrong"]) == ([], [], [])
        assert len(summary["missing"]) == 3


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"no picture")
    for path in (tmp_path / "a.png", tmp_path / "absent.png", tmp_path):
        result = _run("verify", path)
        assert result.exit_code == 2 and result.stderr.startswith("error: picture: ")


# repeat


def _repeated(pictures: Path, name: str | Path, *arguments: object) -> tuple[int, dict[str, Any]]:
    result = _run("repeat", pictures / name, "--model", pictures / "tiny", "--json", *arguments)
    assert result.stdout, result.stderr
    return result.exit_code, json.loads(result.stdout)


def test_picture_repeats_to_the_bit(pictures: Path, tmp_path: Path) -> None:
    status, told = _repeated(pictures, "signed.png", "-o", tmp_path / "again.png")
    # every pixel is equal: an infinite ratio, which JSON has no number for
    assert (status, told) == (0, {"verdict": "bit-equal", "psnr_db": None, "reasons": []})
    with Image.open(tmp_path / "again.png") as again, Image.open(pictures / "signed.png") as first:
        assert again.tobytes() == first.tobytes()


def test_receipt_of_watermark_version_1_repeats_to_the_bit(pictures: Path, tmp_path: Path) -> None:
    bare, signed = json.loads(_receipt_of(pictures / "bare.png")), pictures / "signed.json"
    with Image.open(pictures / "bare.png") as image:
        unmarked = image.convert("RGB")
    receipt = json.loads(signed.read_text()) | {"watermark": {"method": "robust"}}
    assert receipt["picture"]["painted_sha256"] == bare["picture"]["painted_sha256"]
    payload = receipts.payload_of(receipt)
    marked = watermark.mark(unmarked, payload, version=1)
    receipt = receipts.with_mark(receipt, payload, marked)
    old = tmp_path / "old.png"
    old.write_bytes(container.encoded(marked, "PNG", receipt))
    status, told = _repeated(pictures, old, "-o", tmp_path / "again.png")
    assert (status, told) == (0, {"verdict": "bit-equal", "psnr_db": None, "reasons": []})
    with Image.open(tmp_path / "again.png") as again:
        assert again.tobytes() == marked.tobytes()


def _receipt_of(path: Path) -> str:
    return json.dumps(_verified(path)["receipt"])


def test_painting_repeats_though_the_file_is_lossy(pictures: Path) -> None:
    status, told = _repeated(pictures, "signed.jpg")
    assert (status, told["verdict"], told["reasons"]) == (0, "bit-equal", [])
    # saved by the same encoder: not even the compression differs
    assert told["psnr_db"] is None


def test_edited_picture_repeats_from_its_reference(pictures: Path) -> None:
    reference = pictures / "signed.png"
    assert _repeated(pictures, "edited.png", "-r", reference)[1]["verdict"] == "bit-equal"
    result = _run("repeat", pictures / "edited.png", "--model", pictures / "tiny")
    assert result.exit_code == 2 and "0 given, the picture was painted from 1" in result.stderr
    other = ("--model", pictures / "tiny", "-r", pictures / "bare.png")
    result = _run("repeat", pictures / "edited.png", *other)
    assert result.exit_code == 2 and "is not the one that the receipt names" in result.stderr


def test_private_picture_repeats_with_its_prompt(pictures: Path) -> None:
    result = _run("repeat", pictures / "private.webp", "--model", pictures / "tiny")
    assert result.exit_code == 2 and "prompt: the receipt leaves it out" in result.stderr
    right = _repeated(pictures, "private.webp", "--prompt", "a fox in the snow")[1]
    assert right["verdict"] == "bit-equal"


def test_other_numbers_are_named(pictures: Path) -> None:
    _, told = _repeated(pictures, "signed.png", "--dtype", "float32")
    assert told["verdict"] in ("close", "different")
    assert "numbers.dtype: bfloat16 then, float32 now" in told["reasons"]


def test_other_weights_are_different_and_named(pictures: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = save_tiny_model(tmp_path / "tiny")
    file = model / "transformer" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    tensors["img_in.weight"] *= -1
    save_file(tensors, file)
    result = _run("repeat", pictures / "signed.png", "--model", model, "--quiet")
    assert result.exit_code == 1
    verdict, *reasons = result.stdout.splitlines()
    assert verdict.startswith("different: PSNR")
    assert len(reasons) == 1 and reasons[0].startswith("model.files.0.sampled_sha256: ")


def test_changed_pixels_are_told_though_the_painting_repeats(
    pictures: Path, tmp_path: Path
) -> None:
    with Image.open(pictures / "signed.png") as picture:
        picture.paste("red", (0, 0, 64, 64))
        picture.save(tmp_path / "a.png")
    _, told = _repeated(pictures, tmp_path / "a.png", "--receipt", pictures / "signed.json")
    assert told["verdict"] == "bit-equal" and told["psnr_db"] < 30
    assert told["reasons"] == [
        "the painting repeats, but the pixels in the file were changed since"
    ]


def test_picture_without_a_receipt_is_refused(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    result = _run("repeat", tmp_path / "a.png")
    assert result.exit_code == 2 and "--receipt FILE.json" in result.stderr


def test_unknown_model_is_named(pictures: Path) -> None:
    result = _run("repeat", pictures / "signed.png")
    assert result.exit_code == 2
    assert "the receipt names tiny, which is not a known model; give --model PATH" in result.stderr
