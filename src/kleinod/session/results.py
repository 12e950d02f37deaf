"""What a request gives: finished images, and those that a filter blocked."""

import hashlib
import io
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from kleinod import fileio
from kleinod.errors import InputError, ModeratedError
from kleinod.paths import expand_user
from kleinod.provenance.container import FORMATS
from kleinod.provenance.receipt import Receipt


@dataclass(frozen=True)
class BlockedImage:
    """An image that a filter blocked; index: its place among the request's images, from 0."""

    index: int
    error: ModeratedError


@dataclass(frozen=True, repr=False)
class GeneratedImage:
    """A finished image: the file's bytes, the picture in it and its receipt.

    index: its place among the request's images, from 0. image: RGB, with its watermark.
    """

    index: int
    image: Image.Image
    data: bytes
    receipt: Receipt
    format_name: str
    _encode: Callable[[str], bytes] = field(compare=False)

    @property
    def seed(self) -> int:
        """The seed that repeats it."""
        return int(self.receipt["request"]["seed"])

    @property
    def sha256(self) -> str:
        """Of the file's bytes, hexadecimal."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def is_signed(self) -> bool:
        """Whether the file holds a signed C2PA manifest."""
        return self.receipt["c2pa"] == "on"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all, and give its path.

        The suffix chooses the kind of file: .png, .jpg, .jpeg, .webp or .avif; another kind than
        the image was made for is encoded and signed anew. Raises InputError.
        """
        target = expand_user(path, "path")
        format_name = FORMATS.get(target.suffix.lower())
        if format_name is None:
            raise InputError(f"path: {target} does not end in {', '.join(FORMATS)}; name it so")
        data = self.data if format_name == self.format_name else self._encode(format_name)
        write_file(target, data)
        return target

    def _repr_png_(self) -> bytes:
        """For notebooks."""
        if self.format_name == "PNG":
            return self.data
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG")
        return buffer.getvalue()

    def __repr__(self) -> str:
        size = f"{self.image.width}x{self.image.height}"
        kind = f"{self.format_name}, {len(self.data):,} bytes"
        signed = "signed" if self.is_signed else "not signed"
        return f"<GeneratedImage {size}, seed {self.seed}, {kind}, {signed}>"


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a link is written through. Raises InputError."""
    try:
        fileio.write_atomic(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"path: cannot write {path} ({reason}); choose another place") from error
