"""References as the C2PA manifest holds them."""

import io
from dataclasses import dataclass

from PIL import Image

from kleinod.provenance.container import MIME


@dataclass(frozen=True)
class Ingredient:
    """A title, and the bytes of a file that c2pa reads."""

    title: str
    data: bytes
    format_name: str


def read_ingredient(
    data: bytes | None, format_name: str | None, title: str, image: Image.Image
) -> Ingredient:
    """The file as it is, so that its manifest is kept; else its pixels as a PNG."""
    if data is not None and format_name in MIME:
        return Ingredient(title, data, format_name)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return Ingredient(title, buffer.getvalue(), "PNG")
