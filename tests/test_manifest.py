"""The manifest holds by an independent verifier, too, and no change of the file goes unseen."""

import io
import os
import stat
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import encypher_c2pa
import numpy as np
import pytest
from PIL import Image

from kleinod import catalog
from kleinod.errors import InputError, KleinodError
from kleinod.provenance import authority, container, manifest
from kleinod.provenance import receipt as receipts
from kleinod.provenance.ingredients import Ingredient, read_ingredient

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF")
RECEIPT: dict[str, Any] = {
    "schema": receipts.SCHEMA,
    "request": {
        "prompt": "ein Fuchs im Grünen",
        "width": 128,
        "height": 128,
        "num_inference_steps": 4,
        "guidance_scale": 1.0,
        "seed": 2**62 + 1,
        "reference_images": [],
    },
    "model": {"name": "mini", "license": "Apache-2.0", "files": [], "text_layers": [2, 4, 6]},
    "numbers": {"dtype": "float32"},
    "device": {"type": "cpu", "name": "x86_64"},
    "versions": {"kleinod": "0.1.0"},
    "watermark": {"method": "none"},
    "picture": {"painted_sha256": "0" * 64},
    "c2pa": "on",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder, and no configured signer."""
    for name in ("CERTIFICATES", "KEY", "SIGN_COMMAND", "TRUST"):
        monkeypatch.delenv(f"KLEINOD_C2PA_{name}", raising=False)
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def _file(format_name: str, *references: Ingredient) -> bytes:
    picture = Image.effect_mandelbrot((128, 128), (-2, -1.5, 1, 1.5), 50).convert("RGB")
    return manifest.signed(
        container.encoded(picture, format_name, RECEIPT),
        format_name,
        receipt=RECEIPT,
        references=references,
        identity=authority.identity(),
    )


def _independent(data: bytes, format_name: str) -> Mapping[str, Any]:
    return encypher_c2pa.verify(
        data, container.MIME[format_name], trust_pem=authority.trusted(), telemetry=False
    )


@pytest.mark.parametrize("format_name", FORMATS)
def test_signed_file_holds(format_name: str) -> None:
    data = _file(format_name)
    verdict = manifest.judged(data, format_name)
    assert (verdict.state, verdict.problems) == ("trusted", ())
    assert verdict.actions == ("c2pa.created",)
    assert verdict.receipt == RECEIPT
    other = _independent(data, format_name)
    assert (other["integrity"], other["signature"]) == ("valid", "valid")
    assert other["validation_state"] == "Trusted"
    with Image.open(io.BytesIO(data)) as picture:
        assert container.receipt_in(picture) == RECEIPT


def test_manifest_names_model_software_and_source() -> None:
    text = str(_independent(_file("PNG"), "PNG")["manifest_report"])
    for words in ("kleinod", "trainedAlgorithmicMedia", "Painted by the model mini (Apache-2.0)"):
        assert words in text
    assert "thumbnail" not in text


def test_references_are_ingredients_with_their_own_manifests() -> None:
    first = Ingredient("fox.jpg", _file("JPEG"), "JPEG")
    second = read_ingredient(None, None, "owl", Image.new("RGB", (80, 64), "brown"))
    data = _file("PNG", first, second)
    verdict = manifest.judged(data, "PNG")
    assert verdict.state == "trusted"
    assert verdict.actions == ("c2pa.opened", "c2pa.placed", "c2pa.edited")
    assert verdict.ingredients == (
        "fox.jpg (with a manifest of its own)",
        "owl (without a manifest)",
    )
    assert _independent(data, "PNG")["integrity"] == "valid"


@pytest.mark.parametrize("format_name", FORMATS)
def test_one_changed_byte_of_the_picture_is_reported(format_name: str) -> None:
    data = _file(format_name)
    image = data.index(
        {"PNG": b"IDAT", "JPEG": b"\xff\xda", "WEBP": b"VP8 "}.get(format_name, b"mdat")
    )
    draws = np.random.default_rng(0)
    for position in draws.integers(image + 12, len(data) - 12, 25).tolist():
        changed = bytearray(data)
        changed[position] ^= 1 << int(draws.integers(8))
        assert manifest.judged(bytes(changed), format_name).state == "invalid", position
    assert _independent(bytes(changed), format_name)["integrity"] != "valid"


@pytest.mark.parametrize("format_name", FORMATS)
def test_any_changed_byte_is_reported(format_name: str) -> None:
    first = Ingredient("fox.jpg", _file("JPEG"), "JPEG")
    data = _file(format_name, first)
    # every 397th byte: header, manifests, the filling after the signature, receipt, pixels
    for position in range(8, len(data), 397):
        changed = bytearray(data)
        changed[position] ^= 1
        assert manifest.judged(bytes(changed), format_name).state in ("invalid", "none"), position


@pytest.mark.parametrize("format_name", FORMATS)
def test_frame_of_the_manifest_is_checked(format_name: str) -> None:
    """What no signature reaches: names and lengths of boxes, filling, segments and brands."""
    first = Ingredient("fox.jpg", _file("JPEG"), "JPEG")
    data = _file(format_name, first)
    signature = data.rindex(b"c2pa.signature")
    places = [*range(data.index(b"jumb") - 20, data.index(b"jumb") + 45, 3)]
    places += [data.index(name) + 2 for name in (b"c2pa.assertions", b"c2pa.claim")]
    places += [data.rindex(name) + 2 for name in (b"c2pa.assertions", b"c2pa.claim")]
    places += [signature - 30, signature + 3, data.index(b"cpadY", signature) + 200]
    if format_name == "AVIF":
        places += range(8, 32, 3)
    for position in places:
        changed = bytearray(data)
        changed[position] ^= 1
        assert manifest.judged(bytes(changed), format_name).state in ("invalid", "none"), position


def test_references_with_long_manifests_hold() -> None:
    """A JPEG's manifest over 65,533 bytes stands in several segments."""
    large = Image.effect_noise((96, 96), 90).convert("RGB")
    receipt = RECEIPT | {"request": RECEIPT["request"] | {"prompt": "fox " * 20_000}}
    data = manifest.signed(
        container.encoded(large, "PNG", receipt),
        "PNG",
        receipt=receipt,
        references=(),
        identity=authority.identity(),
    )
    edited = _file("JPEG", Ingredient("noise.png", data, "PNG"))
    assert edited.count(b"\xff\xeb") >= 2
    assert manifest.judged(edited, "JPEG").state == "trusted"


def test_manifest_of_another_picture_is_reported() -> None:
    """The manifest's chunk of one PNG in the place of another's."""
    data, other = _file("PNG"), container.encoded(Image.new("RGB", (128, 128)), "PNG", RECEIPT)
    start = data.index(b"caBX") - 4
    length = int.from_bytes(data[start : start + 4], "big") + 12
    swapped = other[:33] + data[start : start + length] + other[33:]
    assert manifest.judged(swapped, "PNG").state == "invalid"
    assert manifest.judged(other, "PNG").state == "none"


# Who signs


def test_authority_is_made_once_and_its_key_is_the_owners(home: Path) -> None:
    first = authority.identity()
    assert authority.identity() == first
    key = home / "signing" / "key.pem"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE((home / "signing").stat().st_mode) == 0o700
    # the authority's own key is in no file
    texts = [file.read_text() for file in (home / "signing").iterdir()]
    assert sum(text.count("PRIVATE KEY") for text in texts) == 2  # begin and end of one


def test_configuration_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLEINOD_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert catalog.config_folder() == Path("/somewhere/kleinod")
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert catalog.config_folder() == Path.home() / ".config" / "kleinod"


def test_folder_that_cannot_be_written_is_an_input_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLEINOD_HOME", "/proc/kleinod")
    with pytest.raises(InputError, match=r"\$KLEINOD_HOME .* --c2pa off"):
        authority.identity()


def test_another_installation_is_valid_but_not_trusted(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = _file("PNG")
    monkeypatch.setenv("KLEINOD_HOME", str(home.parent / "elsewhere"))
    assert manifest.judged(data, "PNG").state == "valid"
    monkeypatch.setenv("KLEINOD_C2PA_TRUST", str(home / "signing" / "authority.pem"))
    assert manifest.judged(data, "PNG").state == "trusted"


def _configure(home: Path, monkeypatch: pytest.MonkeyPatch, **settings: object) -> Path:
    """An identity as if it were a company's: somewhere else, named by the environment."""
    authority.identity()
    folder = (home / "signing").rename(home.parent / "company")
    monkeypatch.setenv("KLEINOD_C2PA_CERTIFICATES", str(folder / "certificates.pem"))
    monkeypatch.setenv("KLEINOD_C2PA_TRUST", str(folder / "authority.pem"))
    return folder


def test_configured_key_signs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _configure(home, monkeypatch)
    monkeypatch.setenv("KLEINOD_C2PA_KEY", str(folder / "key.pem"))
    assert manifest.judged(_file("PNG"), "PNG").state == "trusted"
    assert not (home / "signing").exists()


def test_configured_command_signs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _configure(home, monkeypatch)
    script = folder / "sign.py"
    script.write_text(
        "import sys\n"
        "from cryptography.hazmat.primitives import hashes, serialization\n"
        "from cryptography.hazmat.primitives.asymmetric import ec\n"
        f"text = open({str(folder / 'key.pem')!r}, 'rb').read()\n"
        "key = serialization.load_pem_private_key(text, None)\n"
        "sys.stdout.buffer.write(key.sign(sys.stdin.buffer.read(), ec.ECDSA(hashes.SHA256())))\n"
    )
    monkeypatch.setenv("KLEINOD_C2PA_SIGN_COMMAND", f"{sys.executable} {script}")
    assert manifest.judged(_file("PNG"), "PNG").state == "trusted"
    monkeypatch.setenv("KLEINOD_C2PA_SIGN_COMMAND", "false")
    with pytest.raises(KleinodError, match="c2pa: "):
        _file("PNG")


@pytest.mark.parametrize("names", [("KEY",), ("CERTIFICATES",), ("CERTIFICATES", "KEY")])
def test_half_a_configuration_is_refused(
    names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in names:
        monkeypatch.setenv(f"KLEINOD_C2PA_{name}", "/absent.pem")
    with pytest.raises(InputError, match="KLEINOD_C2PA_"):
        authority.identity()


def test_processes_that_start_together_share_one_authority(home: Path) -> None:
    code = "from kleinod.provenance import authority; print(authority.identity().key)"
    command = [sys.executable, "-c", code]
    started = [
        subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ.copy()) for _ in range(3)
    ]
    keys = {process.communicate()[0] for process in started}
    assert len(keys) == 1 and b"PRIVATE KEY" in keys.pop()
    assert [path.name for path in home.iterdir()] == ["signing"]
