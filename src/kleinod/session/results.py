"""What a request gives: finished images, and those that a filter blocked."""

import hashlib
import io
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from PIL import Image

from kleinod import fileio, paths
from kleinod.display import quoted
from kleinod.errors import InputError, ModeratedError
from kleinod.keywords import check_keywords
from kleinod.paths import expand_user
from kleinod.provenance.container import FORMATS
from kleinod.provenance.receipt import Receipt
from kleinod.request_warnings import RequestWarning


@dataclass(frozen=True)
class BlockedImage:
    """An image that a filter blocked; index: its place among the request's images, from 0.

    prompt: None where the provenance is private. num_images: of the whole request.
    """

    index: int
    error: ModeratedError
    seed: int
    prompt: str | None
    num_images: int

    @property
    def where(self) -> str:
        """As in: image 2 of 4 (seed 8, prompt 'a fox')."""
        prompt = "" if self.prompt is None else f", prompt {quoted(self.prompt, limit=60)}"
        return f"image {self.index + 1} of {self.num_images} (seed {self.seed}{prompt})"

    def located_error(self) -> ModeratedError:
        """The error, which says which of several images it is about."""
        if self.num_images > 1:
            self.error.where = self.where
        return self.error


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

    def __getattr__(self, name: str) -> NoReturn:
        hint = ""
        if not name.startswith("_") and hasattr(Image.Image, name):
            hint = f"; the PIL image has it: .image.{name}"
        raise AttributeError(f"GeneratedImage has no attribute {name!r}{hint}")

    @check_keywords
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file, whole or not at all, and give its path.

        The suffix chooses the kind of file: .png, .jpg, .jpeg, .webp or .avif; another kind than
        the image was made for is encoded and signed anew. Raises InputError.
        """
        target = expand_user(path, "path")
        format_name = FORMATS.get(target.suffix.lower())
        if format_name is None:
            shown = paths.shown(target)
            raise InputError(f"path: {shown} does not end in {', '.join(FORMATS)}; name it so")
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


@dataclass(frozen=True)
class Result:
    """The finished images of a request, what was blocked, and the seconds of each stage.

    warnings: words, sizes and lengths that the model was not trained for.
    """

    images: list[GeneratedImage]
    blocked: list[BlockedImage]
    timings: dict[str, float] = field(repr=False)
    warnings: tuple[RequestWarning, ...] = ()

    def __iter__(self) -> Iterator[GeneratedImage]:
        return iter(self.images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> GeneratedImage:
        return self.images[index]

    def _repr_png_(self) -> bytes | None:
        """For notebooks: a single image shows itself."""
        return self.images[0]._repr_png_() if len(self.images) == 1 else None


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; a link is written through. Raises InputError."""
    try:
        fileio.write_atomic(path, data)
    except OSError as error:
        reason = error.strerror or str(error)
        shown = paths.shown(path)
        raise InputError(f"path: cannot write {shown} ({reason}); choose another place") from error
