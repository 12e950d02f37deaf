"""Picture files as bytes, and the receipt in them: PNG's iTXt chunk, else EXIF's UserComment."""

import io
from collections.abc import Mapping

from PIL import ExifTags, Image, PngImagePlugin

from kleinod.errors import InputError
from kleinod.provenance import receipt as receipts
from kleinod.provenance.receipt import Receipt

FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".avif": "AVIF"}
MIME = {"PNG": "image/png", "JPEG": "image/jpeg", "WEBP": "image/webp", "AVIF": "image/avif"}
# other files whose manifests are read; MPO is Pillow's name of a JPEG that holds several pictures
READ_MIME = MIME | {
    **{"MPO": "image/jpeg", "GIF": "image/gif", "TIFF": "image/tiff"},
    **{"HEIF": "image/heif", "JXL": "image/jxl"},
}
LOSSLESS, KEEPS_CHROMA = ("PNG",), ("PNG", "JPEG")
CHUNK = "kleinod-receipt"
# one segment of a JPEG holds 65,533 bytes; the receipt without words takes about 3,000
MAX_WORDS_BYTES = 50_000
_ASCII = b"ASCII\0\0\0"
_OPTIONS: dict[str, dict[str, int]] = {
    "JPEG": {"quality": 95},
    "WEBP": {"quality": 95},
    "AVIF": {"quality": 90, "speed": 8},
}


def check_words(words: str, format_name: str) -> None:
    """Raise InputError for prompts that a file of this kind cannot hold in its receipt."""
    length = len(receipts.to_json({"": words}))
    if length > MAX_WORDS_BYTES and format_name not in LOSSLESS:
        raise InputError(
            f"prompt: {length} bytes are over the {MAX_WORDS_BYTES} that a receipt in a "
            f"{format_name} file holds; write a PNG, or leave the prompt out of the receipt "
            "(--private; in Python ProvenanceOptions(private=True))"
        )


def check_format(format_name: str) -> None:
    """Raise InputError for a format that pictures are not written in."""
    if format_name not in FORMATS.values():
        known = ", ".join(dict.fromkeys(FORMATS.values()))
        raise InputError(f"format: {format_name!r} is unknown; give {known}")


def check_quality(quality: int | None) -> None:
    """Raise InputError unless it is None or a whole number from 0 to 100."""
    if quality is None:
        return
    if type(quality) is not int or not 0 <= quality <= 100:
        raise InputError(f"quality: {quality!r} is not from 0 to 100; leave it out or give one")


def check_mark(method: str, format_name: str) -> None:
    """Raise InputError for a watermark that a file of this kind destroys."""
    if method == receipts.REFERENCE and format_name not in KEEPS_CHROMA:
        raise InputError(
            f"watermark: {receipts.REFERENCE} is lost in a {format_name} file, which halves the "
            f"resolution of colours; write a PNG or JPEG, or choose the watermark {receipts.ROBUST}"
        )


def encoded(
    image: Image.Image,
    format_name: str,
    receipt: Receipt,
    notes: Mapping[str, str] | None = None,
    *,
    quality: int | None = None,
) -> bytes:
    """The bytes of a picture file with its receipt; a PNG carries the notes as text, too.

    quality: from 0 to 100 over the format's own; a lossless format has none.
    """
    buffer, text = io.BytesIO(), receipts.to_json(receipt)
    if format_name == "PNG":
        chunks = PngImagePlugin.PngInfo()
        for name, value in (notes or {}).items():
            chunks.add_text(name, value)
        chunks.add_itxt(CHUNK, text)
        image.save(buffer, format_name, pnginfo=chunks)
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.Software] = (notes or {}).get("Software", "kleinod")
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = _ASCII + text.encode("ascii")
        options = _options(format_name, receipt["watermark"]["method"])
        options |= {} if quality is None else {"quality": quality}
        image.save(buffer, format_name, exif=exif, **options)
    return buffer.getvalue()


def _options(format_name: str, method: str) -> dict[str, int]:
    """Of the encoder: the reference's mark lies in the colours, which JPEG halves by default."""
    is_full = format_name == "JPEG" and method == receipts.REFERENCE
    return _OPTIONS[format_name] | ({"subsampling": 0} if is_full else {})


def compressed(image: Image.Image, format_name: str, method: str) -> Image.Image:
    """The picture as a file of this kind gives it back: what a comparison must not blame."""
    if format_name in LOSSLESS or format_name not in MIME:
        return image
    buffer = io.BytesIO()
    image.save(buffer, format_name, **_options(format_name, method))
    return Image.open(buffer).convert("RGB")


def receipt_in(image: Image.Image) -> Receipt | None:
    """The receipt in a file's metadata, None if there is none. Raises InputError."""
    text: object = image.info.get(CHUNK)
    if text is None:
        comment = image.getexif().get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
        if isinstance(comment, bytes) and comment.startswith(_ASCII + b'{"'):
            text = comment.removeprefix(_ASCII)
    return (
        receipts.from_json(text, "the picture's metadata")
        if isinstance(text, str | bytes)
        else None
    )
