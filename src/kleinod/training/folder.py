"""A user's folder of pictures and captions as training examples.

NAME.png (or another suffix below) with its caption in NAME.txt; an editing example has its
references beside it as NAME.ref1.png, NAME.ref2.png, …, and the instruction as caption. A file is
a reference only if the picture NAME is there: `house.refined.png` is a picture, and so is
`house.ref1.png` without a `house.png`. Names are compared without regard to case and to how
accents are encoded, since folders travel between systems. Only the top level is read, and
everything that is not used is listed with the reason.

Pictures are scaled and cut in the middle to the nearest size whose sides are multiples of 16; those
of one size and number of references make a pool.
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kleinod import fileio, images
from kleinod.errors import InputError
from kleinod.request import MAX_ASPECT_RATIO, MIN_SIDE_PIXELS
from kleinod.training.pool import Drawn, Pool

# all of them are formats that images.load_image reads
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".avif", ".bmp", ".gif", ".tif", ".tiff")
CAPTION_SUFFIX = ".txt"
# what Windows and macOS put into folders, beside names with a leading dot
SYSTEM_FILES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx"})
_UNREADABLE = frozenset(
    ".heic .heif .jxl .jp2 .svg .psd .xcf .tga .dng .cr2 .cr3 .nef .arw .raf .rw2".split()
)
_REFERENCE = re.compile(r"(?P<name>.+)\.ref(?P<number>[0-9]+)", re.IGNORECASE | re.DOTALL)
Size = tuple[int, int]


@dataclass(frozen=True)
class Captioned:
    """A picture's file, its caption, and its references' files."""

    picture: Path
    words: str
    references: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Contents:
    """What a folder holds: the examples by name, and (file name, reason) of what is left out."""

    items: list[Captioned]
    left_out: tuple[tuple[str, str], ...] = ()


def read_folder(folder: Path) -> list[Captioned]:
    """Every captioned picture, by name. Raises InputError for what is missing."""
    return scan_folder(folder).items


def scan_folder(folder: Path) -> Contents:
    """Every captioned picture, and what is left out. Raises InputError for what is missing."""
    entries = _entries(folder)
    left_out = [(entry.name, reason) for entry in entries if (reason := _left_out(entry))]
    unused = {name for name, _ in left_out}
    files = [entry for entry in entries if entry.name not in unused]
    captions = [f for f in files if f.suffix.lower() == CAPTION_SUFFIX]
    pictures, references = _split([f for f in files if f.suffix.lower() in SUFFIXES])
    if not pictures:
        raise InputError(_no_pictures(folder, entries))
    found = {picture: _caption(picture, captions) for picture in pictures}
    _check_captions(folder, found)
    used = set(found.values())
    left_out += [(f.name, "caption without a picture") for f in captions if f not in used]
    items = [
        Captioned(picture, fileio.read_text(caption, "data").strip(), references(picture))
        for picture, caption in found.items()
        if caption is not None
    ]
    return Contents(items, tuple(sorted(left_out)))


def _entries(folder: Path) -> list[Path]:
    try:
        if not folder.is_dir():
            raise InputError(f"data: {folder} is not a folder; give one with pictures and captions")
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(f"data: cannot read {folder} ({error.strerror}); check it") from error


def _left_out(entry: Path) -> str | None:
    """Why an entry is neither a picture nor a caption; None if it is one."""
    suffix = entry.suffix.lower()
    if entry.name.startswith(".") or entry.name.lower() in SYSTEM_FILES:
        return "hidden or system file"
    if entry.is_dir():
        return "subfolder"
    if suffix in _UNREADABLE:
        return "unreadable format, convert it to PNG or JPEG"
    if suffix not in (*SUFFIXES, CAPTION_SUFFIX):
        return "neither a picture nor a caption"
    return None


def _no_pictures(folder: Path, entries: Sequence[Path]) -> str:
    message = f"data: {folder} holds no picture ({', '.join(SUFFIXES)}); add some"
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
        message += ", at its top level: subfolders are not read"
    return message


def _key(stem: str) -> str:
    """What names are compared by."""
    return unicodedata.normalize("NFC", stem).casefold()


def _split(files: list[Path]) -> tuple[list[Path], Callable[[Path], tuple[Path, ...]]]:
    """The pictures, and a function that gives a picture's references by their numbers."""
    stems = {_key(f.stem) for f in files}

    def reference_of(stem: str) -> re.Match[str] | None:
        """The parts of a reference's name; None for a picture, and for what belongs to none."""
        match = _REFERENCE.fullmatch(stem)
        is_one = match and _key(match["name"]) in stems and not reference_of(match["name"])
        return match if is_one else None

    numbered: dict[str, dict[int, Path]] = defaultdict(dict)
    pictures = []
    for file in files:
        match = reference_of(file.stem)
        if match is None:
            pictures.append(file)
            continue
        others, number = numbered[_key(match["name"])], int(match["number"])
        if number in others:
            raise InputError(
                f"data: {others[number].name} and {file.name} are both reference {number} of "
                f"{match['name']}; rename one"
            )
        others[number] = file

    def references(picture: Path) -> tuple[Path, ...]:
        by_number = numbered.get(_key(picture.stem), {})
        return tuple(by_number[number] for number in sorted(by_number))

    return pictures, references


def _caption(picture: Path, captions: list[Path]) -> Path | None:
    """The caption of a picture; one whose name is equal to the letter goes first."""
    fitting = [f for f in captions if _key(f.stem) == _key(picture.stem)]
    return min(fitting, key=lambda f: f.stem != picture.stem, default=None)


def _check_captions(folder: Path, found: Mapping[Path, Path | None]) -> None:
    bare = [picture for picture, caption in found.items() if caption is None]
    if not bare:
        return
    first = bare[0]
    message = (
        f"data: {len(bare)} of {len(found)} pictures in {folder} have no caption, {first.name} "
        f"for one; write it into {first.stem}{CAPTION_SUFFIX}"
    )
    match = _REFERENCE.fullmatch(first.stem)
    if match:
        message += f", or name it after a picture that is there: {match['name']} is not"
    raise InputError(message)


def measure(
    items: Sequence[Captioned], report: Callable[[float], None] = lambda fraction: None
) -> dict[Path, Size]:
    """Open every picture and reference once; their (width, height). Raises InputError.

    Every file is decoded whole, so that a damaged one is named before anything expensive runs.
    """
    files = [path for item in items for path in (item.picture, *item.references)]
    sizes: dict[Path, Size] = {}
    broken: list[str] = []
    for index, path in enumerate(files, start=1):
        try:
            sizes[path] = _size(path)
        except InputError as error:
            broken.append(str(error))
        report(index / len(files))
    if broken:
        others = f" ({len(broken)} files in all)" if len(broken) > 1 else ""
        raise InputError(broken[0] + others)
    return sizes


def _size(path: Path) -> Size:
    width, height = _open(path).size
    if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
        raise InputError(f"data: {path} is {width}x{height}, longer than 8:1; crop it")
    return width, height


def _open(path: Path) -> Image.Image:
    try:
        return images.load_image(path)
    except InputError as error:
        raise InputError(f"data: {str(error).removeprefix('reference_images: ')}") from error


def fitting_size(width: int, height: int, max_pixels: int) -> Size:
    """The size to train at: the picture's shape, no larger than it, at most so many pixels."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    sides = (max(MIN_SIDE_PIXELS, int(side * scale) // 16 * 16) for side in (width, height))
    wide, high = sides
    return wide, high


def fitted(path: Path, size: Size) -> np.ndarray:
    """The picture (h, w, 3), uint8, scaled and cut in the middle. Raises InputError."""
    return np.asarray(ImageOps.fit(_open(path), size, Image.Resampling.LANCZOS))


def folder_pools(
    items: Sequence[Captioned],
    rng: np.random.Generator,
    max_pixels: int,
    *,
    sizes: Mapping[Path, Size] | None = None,
) -> tuple[list[Pool], tuple[float, ...]]:
    """A pool for each size and number of references, and their shares of the pictures.

    `sizes` is what `measure` found, if it has been called. Raises InputError.
    """
    known = measure(items) if sizes is None else sizes
    groups: dict[tuple[Size, int], list[Captioned]] = defaultdict(list)
    for item in items:
        size = fitting_size(*known[item.picture], max_pixels)
        groups[size, len(item.references)].append(item)
    pools = [
        Pool(_Shuffled(members, size, rng), references + 1, capacity=len(members), size=size)
        for (size, references), members in groups.items()
    ]
    return pools, tuple(len(members) / len(items) for members in groups.values())


class _Shuffled:
    """Every member once in a random order, then again in another."""

    def __init__(self, members: list[Captioned], size: Size, rng: np.random.Generator) -> None:
        self.members, self.size, self.rng = members, size, rng
        self._order: list[int] = []

    def __call__(self) -> Drawn:
        if not self._order:
            self._order = self.rng.permutation(len(self.members)).tolist()
        item = self.members[self._order.pop()]
        pictures = [fitted(path, self.size) for path in (item.picture, *item.references)]
        return pictures, item.words
