"""Paint the README's gallery: python recipes/mini/gallery.py docs/gallery.png [MODEL]

Every prompt is painted once, with the seed that stands here; nothing is picked.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler

SIDE, GAP, TEXT = 128, 12, 44
COLUMNS = 8
PROMPTS = (
    "a fox on a blue background",
    "a rocket, 3D style",
    "a castle, flat style, on a yellow background",
    "an owl on a purple background",
    "a strawberry",
    "a guitar, 3D style, on a teal background",
    "a penguin on sky blue",
    "a bicycle, flat style",
    "a pizza, 3D render, on a green background",
    "a snowman on a red background",
    "a butterfly, cartoon style",
    "a sailboat, flat style, on a pink background",
    "a small cactus on an orange background",
    "a dog to the left of a car",
    "a bee above a rose on a white background",
    "a cat and a birthday cake on a gray background",
)
EDITS = (
    ("a fox on a blue background", "change the background to yellow"),
    ("a tractor", "make it 3D style"),
    ("a penguin on sky blue", "replace the penguin with a snowman"),
    ("a guitar on a pink background", "mirror it"),
)
PAIRS = (
    ("a lion", "a red apple", "both side by side"),
    ("an owl", "a house on a purple background", "the first on the background of the second"),
)


@dataclass(frozen=True)
class Row:
    """Pictures from left to right and the words under each."""

    pictures: list[Image.Image]
    words: list[str]


def paint(pipeline: Sampler, prompt: str, seed: int, *references: Image.Image) -> Image.Image:
    """One picture."""
    result = pipeline.generate(prompt, reference_images=references, seed=seed)
    return result.images[0].image


def edit_rows(pipeline: Sampler) -> list[Row]:
    """References and what was made of them, two edits or one pair in a row."""
    cells: list[tuple[Image.Image, str]] = []
    for seed, (first, words) in enumerate(EDITS, start=100):
        before = paint(pipeline, first, seed)
        cells += [(before, first), (paint(pipeline, words, seed, before), "then: " + words)]
    for seed, (first, second, words) in enumerate(PAIRS, start=200):
        pair = paint(pipeline, first, seed), paint(pipeline, second, seed + 50)
        after = paint(pipeline, words, seed, *pair)
        cells += [(pair[0], first), (pair[1], second), (after, "then: " + words)]
    return rows(cells)


def rows(cells: list[tuple[Image.Image, str]]) -> list[Row]:
    """Cells in rows of COLUMNS."""
    parts = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    return [Row([c[0] for c in part], [c[1] for c in part]) for part in parts]


def wrapped(words: str, width: int = 20) -> str:
    """Lines of at most `width` letters."""
    lines = [""]
    for word in words.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += word + " "
    return "\n".join(line.strip() for line in lines)


def drawn(all_rows: list[Row]) -> Image.Image:
    """The sheet."""
    width = COLUMNS * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, len(all_rows) * (SIDE + TEXT + GAP) + GAP), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    for y, row in enumerate(all_rows):
        for x, (picture, words) in enumerate(zip(row.pictures, row.words, strict=True)):
            corner = GAP + x * (SIDE + GAP), GAP + y * (SIDE + TEXT + GAP)
            sheet.paste(picture, corner)
            frame = (corner[0] - 1, corner[1] - 1, corner[0] + SIDE, corner[1] + SIDE)
            pen.rectangle(frame, outline=(200, 200, 200))
            pen.multiline_text((corner[0], corner[1] + SIDE + 4), wrapped(words), "black", font)
    return sheet


def main(target: Path, model: str) -> None:
    """Paint and save."""
    pipeline = load_sampler(model)
    singles = [(paint(pipeline, p, seed), p) for seed, p in enumerate(PROMPTS)]
    drawn(rows(singles) + edit_rows(pipeline)).save(target, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "mini")
