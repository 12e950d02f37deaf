"""One request from words to signed files: filters, pipeline, watermark, receipt, manifest.

    prompt and references judged ── paint ── judge ── hash ── watermark ── receipt ── encode ── sign

This is the guarded way; `Pipeline.generate` below it knows nothing of filters. Whoever paints for
others calls `Screening.check_request` before it loads or queues anything; `finished` judges each
picture, so that none becomes a file unjudged.

What may fail for a user's mistake (a certificate, a folder) is asked for before the painting: see
`signing`. Knows nothing of names of files and of progress bars.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from kleinod import __version__
from kleinod.errors import InputError
from kleinod.pipeline import Pipeline
from kleinod.provenance import authority, container, facts, manifest, reference_mark, watermark
from kleinod.provenance import receipt as receipts
from kleinod.provenance.authority import Identity
from kleinod.provenance.facts import ModelFile
from kleinod.provenance.manifest import Reference
from kleinod.provenance.receipt import Choices, Receipt
from kleinod.request import Components, Request
from kleinod.safety import Screening


@dataclass(frozen=True)
class Signing:
    """Who signs, and the references as they came."""

    identity: Identity
    references: tuple[Reference, ...] = ()


@dataclass(frozen=True)
class FinishedImage:
    """A picture file's bytes, the picture with its mark, and the receipt that is in the file."""

    data: bytes
    image: Image.Image
    receipt: Receipt

    def save(self, path: str | Path) -> None:
        """Write the file as it is; another ending than its format's is an InputError."""
        name = str(Image.open(io.BytesIO(self.data)).format)
        if container.FORMATS.get(Path(path).suffix.lower()) != name:
            raise InputError(f"path: {path} does not end as a {name} file; name it so")
        Path(path).write_bytes(self.data)


def signing(choices: Choices, references: Sequence[Reference] = ()) -> Signing | None:
    """What is needed to sign; None if it is switched off. Raises InputError."""
    if not choices.is_signed:
        return None
    return Signing(authority.identity(), tuple(references))


def drafts(
    pipeline: Pipeline, request: Request, files: list[ModelFile], choices: Choices
) -> list[Receipt]:
    """The receipts of a settled request's pictures before they are painted."""
    return facts.drafts(pipeline, request, files, choices)


def model_files(model: str | Path, components: Components, choices: Choices) -> list[ModelFile]:
    """The model's files and their hashes. Raises InputError."""
    return facts.model_files(model, components, full_hashes=choices.has_full_hashes)


def marked(image: Image.Image, draft: Receipt) -> tuple[Image.Image, Receipt]:
    """The painted picture with its watermark, and its whole receipt."""
    picture = {
        "width": image.width,
        "height": image.height,
        "painted_sha256": receipts.pixels_sha256(image),
    }
    receipt = draft | {"picture": picture}
    if receipt["watermark"]["method"] != receipts.ROBUST:
        is_reference = receipt["watermark"]["method"] == receipts.REFERENCE
        finished = reference_mark.mark(image) if is_reference else image
        return finished, receipts.with_mark(receipt, None, finished)
    payload = receipts.payload_of(receipt)
    finished = watermark.mark(image, payload)
    return finished, receipts.with_mark(receipt, payload, finished)


def repeated(
    image: Image.Image, draft: Receipt, old: Receipt, *, screening: Screening
) -> tuple[Image.Image, Receipt]:
    """A picture painted again from `old`, with the mark of the first, and the receipt of that.

    The first one's number is laid in, even if this receipt's own would be another: so the pixels
    differ by what was painted, not by the mark. Raises ModeratedError, FilterError.
    """
    own, receipt = marked(image, draft | {"safety": screening.check_result(image)})
    payload = old["watermark"].get("payload")
    if receipt["watermark"]["method"] != receipts.ROBUST or not isinstance(payload, str):
        return own, receipt
    try:
        finished = watermark.mark(image, int(payload, 16) & (1 << watermark.PAYLOAD_BITS) - 1)
    except ValueError as error:
        raise InputError(f"receipt: watermark.payload is {payload!r}; it is damaged") from error
    return finished, receipt


def finished(
    image: Image.Image,
    draft: Receipt,
    *,
    format_name: str,
    signing: Signing | None,
    screening: Screening,
    quality: int | None = None,
) -> FinishedImage:
    """A painted picture made a file: judged first, marked, with its receipt, signed last.

    quality: of a lossy format, from 0 to 100; None: the format's own. Raises ModeratedError,
    FilterError.
    """
    image, receipt = marked(image, draft | {"safety": screening.check_result(image)})
    request = receipt["request"]
    notes = {
        "Software": f"kleinod {__version__}",
        "model": receipt["model"]["name"],
        "seed": str(request["seed"]),
        "steps": str(request["num_inference_steps"]),
    }
    data = container.encoded(image, format_name, receipt, notes, quality=quality)
    if signing is not None:
        data = manifest.signed(
            data,
            format_name,
            receipt=receipt,
            references=signing.references,
            identity=signing.identity,
        )
    return FinishedImage(data, image, receipt)
