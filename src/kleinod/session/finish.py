"""All that comes after denoising: an image becomes a moderated, watermarked, signed file."""

import logging
from collections.abc import Iterator, Sequence
from functools import partial

from PIL import Image

from kleinod.audit import audit_log
from kleinod.errors import InputError, ModeratedError, SigningError
from kleinod.provenance import container, manifest, reference_mark, watermark
from kleinod.provenance import receipt as receipts
from kleinod.provenance.receipt import Receipt
from kleinod.session.prepare import PreparedRequest, Signing, recorded_blocks
from kleinod.session.results import BlockedImage, GeneratedImage
from kleinod.version import __version__

_log = logging.getLogger(__name__)


def finish(
    prepared: PreparedRequest, images: Sequence[Image.Image]
) -> Iterator[GeneratedImage | BlockedImage]:
    """Make a file of each decoded image, in order; one that a filter blocks spoils no other.

    An image is in the audit log before it is given. Raises FilterError, and InputError where the
    audit log cannot be written.
    """
    for index, (image, draft) in enumerate(zip(images, prepared.receipts, strict=True)):
        prompt = draft["request"].get("prompt")
        try:
            with recorded_blocks(prepared.checked.session, prompt):
                safety = prepared.checked.screening.check_result(image)
        except ModeratedError as error:
            yield _blocked(prepared, index, error)
            continue
        yield _finish_one(prepared, index, image, draft | {"safety": safety})


def _blocked(prepared: PreparedRequest, index: int, error: ModeratedError) -> BlockedImage:
    resolved, is_private = prepared.resolved, prepared.checked.session.provenance.private
    return BlockedImage(
        index=index,
        error=error,
        seed=resolved.seeds[index],
        prompt=None if is_private else resolved.prompt_of(index),
        num_images=len(resolved.seeds),
    )


def _finish_one(
    prepared: PreparedRequest, index: int, image: Image.Image, draft: Receipt
) -> GeneratedImage:
    checked = prepared.checked
    output, signing = checked.output, checked.signing
    marked, receipt = mark(image, draft)
    try:
        data = encode_file(marked, receipt, output.format_name, signing, quality=output.quality)
    except SigningError as error:
        # what was painted is kept: a receipt that says so, instead of a signature
        _log.warning("image %d is not signed: %s", index + 1, error)
        signing = None
        marked, receipt = mark(image, draft | {"c2pa": "failed"})
        data = encode_file(marked, receipt, output.format_name, None, quality=output.quality)
    checked.session.audit.record(audit_log.generated(receipt, data))
    return GeneratedImage(
        index=index,
        image=marked,
        data=data,
        receipt=receipt,
        format_name=output.format_name,
        _encode=partial(_encode_again, prepared, marked, receipt, signing),
    )


def _encode_again(
    prepared: PreparedRequest,
    marked: Image.Image,
    receipt: Receipt,
    signing: Signing | None,
    format_name: str,
) -> bytes:
    """The same image as another kind of file. Raises InputError, SigningError."""
    container.check_mark(receipt["watermark"]["method"], format_name)
    container.check_words(receipts.words_of(receipt), format_name)
    data = encode_file(marked, receipt, format_name, signing)
    prepared.checked.session.audit.record(audit_log.generated(receipt, data))
    return data


def mark(image: Image.Image, draft: Receipt) -> tuple[Image.Image, Receipt]:
    """The decoded image with its watermark, and its whole receipt."""
    picture = {
        "width": image.width,
        "height": image.height,
        "painted_sha256": receipts.pixels_sha256(image),
    }
    receipt = draft | {"picture": picture}
    method = receipt["watermark"]["method"]
    if method == receipts.ROBUST:
        payload = receipts.payload_of(receipt)
        marked = watermark.mark(image, payload, version=receipt["watermark"].get("version", 1))
        return marked, receipts.with_mark(receipt, payload, marked)
    marked = reference_mark.mark(image) if method == receipts.REFERENCE else image
    return marked, receipts.with_mark(receipt, None, marked)


def encode_file(
    image: Image.Image,
    receipt: Receipt,
    format_name: str,
    signing: Signing | None,
    *,
    quality: int | None = None,
) -> bytes:
    """The bytes of a picture file with its receipt, signed last. Raises SigningError."""
    request = receipt["request"]
    notes = {
        "Software": f"kleinod {__version__}",
        "model": receipt["model"]["name"],
        "seed": str(request["seed"]),
        "steps": str(request["num_inference_steps"]),
    }
    data = container.encoded(image, format_name, receipt, notes, quality=quality)
    if signing is None:
        return data
    return manifest.signed(
        data,
        format_name,
        receipt=receipt,
        references=signing.ingredients,
        identity=signing.identity,
    )


def reproduce(
    prepared: PreparedRequest, image: Image.Image, old: Receipt
) -> tuple[Image.Image, Receipt]:
    """An image generated again from `old`, with the watermark of the first, and its new receipt.

    The first one's payload is embedded even where this receipt's own would be another: so pixels
    differ by what was generated, not by the watermark. Raises ModeratedError, FilterError,
    InputError.
    """
    draft = prepared.receipts[0]
    with recorded_blocks(prepared.checked.session, draft["request"].get("prompt")):
        safety = prepared.checked.screening.check_result(image)
    own, receipt = mark(image, draft | {"safety": safety})
    payload = old["watermark"].get("payload")
    if receipt["watermark"]["method"] != receipts.ROBUST or not isinstance(payload, str):
        return own, receipt
    try:
        number = int(payload, 16) & (1 << watermark.PAYLOAD_BITS) - 1
    except ValueError as error:
        raise InputError(f"receipt: watermark.payload is {payload!r}; it is damaged") from error
    version = old["watermark"].get("version", 1)
    return watermark.mark(image, number, version=version), receipt
