"""A user's folder of pictures and captions as training examples.

NAME.png (or .jpg, .jpeg, .webp) with its caption in NAME.txt; an editing example has its references
beside it as NAME.ref1.png, NAME.ref2.png, …, and the instruction as caption. Pictures are scaled
and cut in the middle to the nearest size whose sides are multiples of 16; those of one size and
number of references make a pool.
"""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kleinod import images
from kleinod.errors import InputError
from kleinod.request import MIN_SIDE_PIXELS
from kleinod.training.pool import Drawn, Pool

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
Size = tuple[int, int]


@dataclass(frozen=True)
class Captioned:
    """A picture's file, its caption, and its references' files."""

    picture: Path
    words: str
    references: tuple[Path, ...] = ()


def read_folder(folder: Path) -> list[Captioned]:
    """Every captioned picture, by name. Raises InputError for what is missing."""
    if not folder.is_dir():
        raise InputError(f"data: {folder} is no folder; give one with pictures and captions")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    pictures = [f for f in files if ".ref" not in f.stem]
    if not pictures:
        raise InputError(f"data: {folder} holds no picture ({', '.join(SUFFIXES)}); add some")
    bare = [f.name for f in pictures if not f.with_suffix(".txt").is_file()]
    if bare:
        example = f"{Path(bare[0]).stem}.txt"
        raise InputError(
            f"data: {len(bare)} of {len(pictures)} pictures in {folder} have no caption, "
            f"{bare[0]} for one; write it into {example}"
        )
    return [_captioned(f, files) for f in pictures]


def _captioned(picture: Path, files: list[Path]) -> Captioned:
    words = picture.with_suffix(".txt").read_text(encoding="utf-8").strip()
    references = [f for f in files if f.stem.startswith(f"{picture.stem}.ref")]
    return Captioned(picture, words, tuple(references))


def fitting_size(width: int, height: int, max_pixels: int) -> Size:
    """The size to train at: the picture's shape, no larger than it, at most so many pixels."""
    scale = min(1.0, (max_pixels / (width * height)) ** 0.5)
    sides = (max(MIN_SIDE_PIXELS, int(side * scale) // 16 * 16) for side in (width, height))
    wide, high = sides
    return wide, high


def fitted(path: Path, size: Size) -> np.ndarray:
    """The picture (h, w, 3), uint8, scaled and cut in the middle. Raises InputError."""
    return np.asarray(ImageOps.fit(images.load_image(path), size, Image.Resampling.LANCZOS))


def folder_pools(
    items: list[Captioned], rng: np.random.Generator, max_pixels: int
) -> tuple[list[Pool], tuple[float, ...]]:
    """A pool for each size and number of references, and their shares of the pictures."""
    groups: dict[tuple[Size, int], list[Captioned]] = defaultdict(list)
    for item in items:
        whole = images.load_image(item.picture)
        size = fitting_size(whole.width, whole.height, max_pixels)
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
