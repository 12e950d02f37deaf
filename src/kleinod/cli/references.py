"""Reference pictures that the user names: read and checked before any model loads."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kleinod.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.images import OpenedReference
    from kleinod.provenance.manifest import Reference as Ingredient


@dataclass(frozen=True)
class Reference:
    """A picture file and what is in it, 8-bit RGB."""

    path: Path
    opened: "OpenedReference"
    number: int

    @property
    def image(self) -> "Image.Image":
        """Its pixels."""
        return self.opened.image

    def as_ingredient(self, *, is_private: bool) -> "Ingredient":
        """For the manifest: the file as it is, so that its own manifest is kept."""
        from kleinod.provenance import manifest

        name = f"reference {self.number}" if is_private else self.path.name
        return manifest.Reference.of_file(name, self.path, self.image)


def load_references(paths: list[Path]) -> list[Reference]:
    """Each file read whole. Raises InputError with its name."""
    return [Reference(path, _opened(path), index) for index, path in enumerate(paths, start=1)]


def _opened(path: Path) -> "OpenedReference":
    from kleinod import images  # late: numpy and Pillow's decoders, for editing only

    opened = images.open_reference(path)
    try:
        images.prepared_size(*opened.image.size)
    except InputError as error:
        raise InputError(f"{error} ({path})") from error
    return opened
