"""What a picture file proves, what it claims, what is missing and what is wrong with it.

Proved is only what a valid signature covers. A receipt without one, and a watermark, are claims:
whoever wants can write them.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from kleinod import images
from kleinod.display import printable
from kleinod.errors import InputError
from kleinod.images import PictureError
from kleinod.provenance import container, manifest, reference_mark, watermark
from kleinod.provenance import receipt as receipts
from kleinod.provenance.manifest import Verdict
from kleinod.provenance.reading import Reading
from kleinod.provenance.receipt import Receipt
from kleinod.provenance.reference_mark import ReferenceReading

_REASONS = {
    "assertion.dataHash.mismatch": "the file was changed after it was signed, or the manifest is "
    "that of another picture",
    "assertion.bmffHash.mismatch": "the file was changed after it was signed, or the manifest is "
    "that of another picture",
    "assertion.hashedURI.mismatch": "a statement in the manifest was changed",
    "claimSignature.mismatch": "the signature does not fit the manifest",
    "signingCredential.expired": "the signer's certificate has expired",
    "signingCredential.invalid": "the signer's certificate may not sign pictures",
}


@dataclass(frozen=True)
class Evidence:
    """Everything that was read from a picture file; no image where its pixels cannot be read."""

    image: Image.Image | None
    format_name: str
    manifest: Verdict
    watermark: Reading
    reference_mark: ReferenceReading
    written: Receipt | None
    faults: tuple[str, ...] = ()
    gaps: tuple[str, ...] = ()

    @property
    def receipt(self) -> Receipt | None:
        """The signed receipt if there is one, else the one in the metadata."""
        return self.manifest.receipt or self.written


@dataclass
class Findings:
    """Sentences by what they are worth."""

    proved: list[str] = field(default_factory=list)
    claimed: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def evidence(path: Path) -> Evidence:
    """Read a picture file and all that it says of itself. Raises InputError."""
    try:
        data = images.read_file(path, max_bytes=images.COMMAND_LIMITS.max_bytes)
        format_name, written, faults = _metadata(data)
    except PictureError as error:
        name = printable(path, limit=200)
        raise InputError(
            f"picture: {name} cannot be read ({error.reason}); {error.remedy}"
        ) from error
    is_known = format_name in container.READ_MIME
    verdict = manifest.judged(data, format_name) if is_known else Verdict("none")
    gaps: list[str] = []
    image, marks = None, (Reading(False, None, 0.0, 1.0), ReferenceReading(0))
    try:
        image = images.open_reference(data, name=path.name, field="picture").image
        marks = watermark.read(image), reference_mark.read(image)
    except InputError as error:
        is_readable = images.has_decoder(format_name)
        if not is_readable and verdict.state == "none":
            raise  # nothing at all is known of it
        if is_readable:
            faults.append(f"The pixels cannot be read ({getattr(error.__cause__, 'reason', '')}).")
        else:
            gaps.append(f"The pixels: {error.__cause__}.")
    return Evidence(image, format_name, verdict, *marks, written, tuple(faults), tuple(gaps))


def _metadata(data: bytes) -> tuple[str, Receipt | None, list[str]]:
    """Format, receipt in the metadata, and what is wrong with that. Raises PictureError."""
    format_name = images.format_of(data)
    if format_name is not None and not images.has_decoder(format_name):
        return format_name, None, []
    with images.open_file(data) as picture:
        name = str(format_name)
        try:
            return name, container.receipt_in(picture), []
        except InputError as error:
            return name, None, [str(error)]
        except images.BROKEN_FILE:  # somebody's broken EXIF says nothing about the picture
            return name, None, []


def findings(found: Evidence) -> Findings:
    """The evidence in plain words."""
    result = Findings(wrong=list(found.faults), missing=list(found.gaps))
    _judge_manifest(found, result)
    _judge_receipt(found, result)
    if found.image is not None:
        _judge_watermark(found, result)
        _judge_reference_mark(found, result)
        _judge_pixels(found, found.image, result)
    return result


def _judge_manifest(found: Evidence, result: Findings) -> None:
    verdict, receipt = found.manifest, found.receipt or {}
    if verdict.state == "none":
        is_off = receipt.get("c2pa") == "off"
        why = " (the receipt says that it was switched off)" if is_off else ""
        result.missing.append(f"A signed manifest{why}: nothing about this file is proved.")
        if receipt.get("c2pa") == "on":
            result.wrong.append("The receipt says that the file was signed: the manifest is gone.")
    elif verdict.state == "invalid":
        reasons = "; ".join(_REASONS.get(code, code) for code in verdict.problems)
        result.wrong.append(f"The signed manifest does not hold: {reasons}.")
    else:
        result.proved.append("The file is, byte for byte, as it was signed.")
        if verdict.state == "trusted":
            result.proved.append(f"It was signed by {verdict.signer}, whom this machine trusts.")
        else:
            result.claimed.append(
                f"It was signed by {verdict.signer}; this machine does not know who that is."
            )
        result.claimed.append(f"Made with {verdict.generator}: {', '.join(verdict.actions)}.")
        result.claimed += [f"Made of {name}." for name in verdict.ingredients]


def _judge_receipt(found: Evidence, result: Findings) -> None:
    receipt = found.receipt
    if receipt is None:
        result.missing.append("A receipt: the picture cannot be repeated from this file alone.")
        return
    result.claimed += _told(receipt)
    if found.manifest.receipt is not None:
        result.proved.append("The receipt is the one that the signer wrote.")
        if found.written is not None and found.written != found.manifest.receipt:
            result.wrong.append("The receipt in the metadata is not the signed one.")
    if "prompt" not in receipt["request"]:
        result.missing.append("The prompt: it was left out on purpose (--private).")
    stated = receipt["watermark"].get("payload")
    if stated is not None and stated != f"{receipts.payload_of(receipt):012x}":
        result.wrong.append("The receipt was edited: it does not fit its own watermark number.")


def _told(receipt: Receipt) -> list[str]:
    """What a receipt says, in sentences."""
    request, model = receipt["request"], receipt["model"]
    lines = [
        f"Painted by the model {model['name']}, {request['width']}x{request['height']}, "
        f"{request['num_inference_steps']} steps, guidance {request['guidance_scale']}, "
        f"seed {request['seed']}.",
        f"On {receipt['device']['type']} in {receipt['numbers']['dtype']}, with "
        + ", ".join(f"{n} {v}" for n, v in dict(receipt.get("versions", {})).items())
        + ".",
    ]
    if "prompt" in request:
        lines.insert(0, f"Prompt: {request['prompt']}")
    if request["reference_images"]:
        lines.append(f"From {len(request['reference_images'])} reference picture(s).")
    return lines


def _judge_watermark(found: Evidence, result: Findings) -> None:
    mark, receipt = found.watermark, found.receipt
    stated = receipt["watermark"].get("payload") if receipt else None
    if not mark.is_present:
        if stated is not None:
            result.wrong.append("The receipt names a watermark, but the pixels do not hold it.")
        elif not found.reference_mark.is_present and _method(found) != receipts.REFERENCE:
            is_off = _method(found) == receipts.NO_MARK
            why = " (the receipt says that it was switched off)" if is_off else ""
            result.missing.append(f"A watermark in the pixels{why}.")
        return
    read = f"number {mark.payload:012x}" if mark.payload is not None else "its number is unreadable"
    result.claimed.append(
        f"The pixels hold kleinod's watermark: the picture is generated ({read})."
    )
    if receipt is None and found.manifest.state == "none":
        result.wrong.append("Manifest and receipt were stripped: kleinod always writes a receipt.")
    if mark.payload is not None and receipt is not None and stated != f"{mark.payload:012x}":
        result.wrong.append("The watermark belongs to another receipt than this one.")


def _method(found: Evidence) -> str | None:
    """The kind of mark that the receipt names."""
    return found.receipt["watermark"]["method"] if found.receipt else None


def _judge_reference_mark(found: Evidence, result: Findings) -> None:
    mark = found.reference_mark
    if mark.is_present:
        result.claimed.append(
            "The pixels hold the mark of FLUX.2's reference code: the picture is generated "
            f"({mark.num_right_bits} of {len(reference_mark.BITS)} bits)."
        )
    elif _method(found) == receipts.REFERENCE:
        result.missing.append(
            "The reference code's mark, which the receipt names: it survives no recompression with "
            "halved colours, and cannot be read on white."
        )


def _judge_pixels(found: Evidence, image: Image.Image, result: Findings) -> None:
    receipt = found.receipt
    if receipt is None or found.format_name not in container.LOSSLESS:
        return
    stated = receipt["picture"].get("finished_sha256")
    if stated is not None and stated != receipts.pixels_sha256(image):
        result.wrong.append("The pixels are not those that the receipt was written for.")


def summary(found: Evidence) -> dict[str, Any]:
    """The same for programs: `intact` is False if anything is wrong."""
    result, mark = findings(found), found.watermark
    return {
        "intact": not result.wrong,
        "proved": result.proved,
        "claimed": result.claimed,
        "missing": result.missing,
        "wrong": result.wrong,
        "manifest": {
            "state": found.manifest.state,
            "problems": list(found.manifest.problems),
            "signer": found.manifest.signer,
            "actions": list(found.manifest.actions),
            "ingredients": list(found.manifest.ingredients),
        },
        "watermark": {
            "is_present": mark.is_present,
            "payload": None if mark.payload is None else f"{mark.payload:012x}",
            "agreement": round(mark.agreement, 3),
            "scale": round(mark.scale, 3),
        },
        "reference_mark": {
            "is_present": found.reference_mark.is_present,
            "num_right_bits": found.reference_mark.num_right_bits,
        },
        "receipt": found.receipt,
    }
