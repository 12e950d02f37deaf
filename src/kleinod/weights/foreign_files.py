"""What a file that holds no weights is, by its first bytes, and what to do instead. No torch.

A download that failed leaves a pointer, a page or a refusal under the name of the weights; others
give a picture, an archive or a pickle. Each is named, so that nobody fetches the same thing again.
"""

import json
import re
from collections.abc import Callable
from typing import NamedTuple

from kleinod.display import quoted

NUM_BYTES = 4096
_KEPT_LETTERS = 80


class Signature(NamedTuple):
    """What a file is ("is a …") and the remedy."""

    what: str
    remedy: str


_PICTURE = "give it as a reference picture, and weights here"
_ARCHIVE = "unpack it and give the .safetensors or .gguf file in it"
_PICKLE = Signature("is a pickle, which may hold code and is not read", "take .safetensors")
_FETCH = "fetch the file itself (the model's page may ask for a login or a licence)"
_LFS = Signature("is a Git LFS pointer, not the file", "run `git lfs pull` in its folder")
_ZEROS = Signature("begins with zeros only, as a download that was broken off", "fetch it again")

_STARTS: tuple[tuple[bytes, Signature], ...] = (
    (b"version https://git-lfs", _LFS),
    (b"\x89PNG\r\n", Signature("is a PNG picture, not weights", _PICTURE)),
    (b"\xff\xd8\xff", Signature("is a JPEG picture, not weights", _PICTURE)),
    (b"GIF8", Signature("is a GIF picture, not weights", _PICTURE)),
    (b"BM", Signature("is a BMP picture, not weights", _PICTURE)),
    (b"II*\0", Signature("is a TIFF picture, not weights", _PICTURE)),
    (b"MM\0*", Signature("is a TIFF picture, not weights", _PICTURE)),
    (b"%PDF-", Signature("is a PDF document, not weights", "give a .safetensors or .gguf file")),
    # protocols 2 to 5 of pickle
    *((bytes((0x80, protocol)), _PICKLE) for protocol in range(2, 6)),
    (b"\x1f\x8b", Signature("is a gzip archive", _ARCHIVE)),
    (b"BZh", Signature("is a bzip2 archive", _ARCHIVE)),
    (b"\xfd7zXZ\0", Signature("is an xz archive", _ARCHIVE)),
    (b"\x28\xb5\x2f\xfd", Signature("is a zstd archive", _ARCHIVE)),
    (b"7z\xbc\xaf\x27\x1c", Signature("is a 7z archive", _ARCHIVE)),
    (b"Rar!", Signature("is a RAR archive", _ARCHIVE)),
    (b"\x93NUMPY", Signature("is a NumPy file, not read", "take .safetensors")),
    (b"\x89HDF", Signature("is an HDF5 file, not read", "take .safetensors")),
    (b"SQLite format 3", Signature("is a database, not weights", "give a .safetensors file")),
    (
        b"\0\x05\x16\x07",
        Signature("is macOS' companion of a file, not the file", "give the one without `._`"),
    ),
)
_BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"mif1": "a HEIF"}


def recognized(start: bytes, num_bytes: int) -> Signature | None:
    """What the first NUM_BYTES bytes of a file show; None if it may hold weights."""
    if not num_bytes:
        return Signature("is empty (0 bytes)", "fetch it again")
    # a safetensors header's length, under 16 MB, may begin as a pickle or a picture does
    if start[8:9] == b"{" and not any(start[3:8]):
        return None
    for magic, signature in _STARTS:
        if start.startswith(magic):
            return signature
    for look in (_container, _text):
        found = look(start)
        if found:
            return found
    return _ZEROS if len(start) >= 64 and not any(start) else None


def _container(start: bytes) -> Signature | None:
    if start.startswith(b"PK\x03\x04"):
        # torch.save writes a zip of a pickle and its tensors
        return _PICKLE if b"data.pkl" in start[:256] else Signature("is a zip archive", _ARCHIVE)
    if start.startswith(b"RIFF") and start[8:12] == b"WEBP":
        return Signature("is a WebP picture, not weights", _PICTURE)
    if start[4:8] == b"ftyp":
        kind = _BRANDS.get(start[8:12])
        if kind:
            return Signature(f"is {kind} picture, not weights", _PICTURE)
        return Signature("is a video or picture, not weights", _PICTURE)
    if start[257:262] == b"ustar":
        return Signature("is a tar archive", _ARCHIVE)
    return None


def _text(start: bytes) -> Signature | None:
    """A page, JSON or a sentence: what begins with printable letters is no header's length."""
    text = start.decode("utf-8-sig", errors="ignore").lstrip()
    if not text or not _is_text(start):
        return None
    lower = text[:200].lower()
    if lower.startswith(("<!doctype html", "<html", "<head", "<?xml", "<!--")):
        return Signature("is a web page, not weights", _FETCH)
    if text.startswith(("{", "[")):
        return _json(text)
    return Signature(f"is text ({_first_line(text)}), not weights", _FETCH)


def _is_text(start: bytes) -> bool:
    return not re.search(rb"[\x00-\x08\x0e-\x1f]", start[:256])


def _json(text: str) -> Signature:
    """A hub's refusal, or a configuration, an index or a tokenizer given in place of weights."""
    found = re.search(r'"(?:error|message|detail)"\s*:\s*("(?:[^"\\]|\\.)*")', text)
    if found and '"weight_map"' not in text:
        return Signature(f"is a server's answer ({_unquoted(found[1])}), not weights", _FETCH)
    kinds: tuple[tuple[Callable[[str], bool], str, str], ...] = (
        (lambda t: '"weight_map"' in t, "the index of a model in pieces", "give its folder"),
        (lambda t: '"_class_name"' in t, "a model's configuration", "give its folder"),
        (lambda t: '"added_tokens"' in t, "a tokenizer", "give it as --tokenizer"),
        (lambda t: '"model_type"' in t, "a model's configuration", "give its folder"),
    )
    for fits, what, remedy in kinds:
        if fits(text):
            return Signature(f"is {what}, not weights", remedy)
    return Signature("is a JSON file, not weights", "give a .safetensors or .gguf file")


def _unquoted(literal: str) -> str:
    try:
        return _first_line(json.loads(literal))
    except ValueError:
        return _first_line(literal)


def _first_line(text: str) -> str:
    return quoted(text.splitlines()[0] if text else "", limit=_KEPT_LETTERS)
