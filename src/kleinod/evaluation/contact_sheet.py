"""A sheet of all pictures of an evaluation: prompt beneath, green frame for right, red for wrong.

References stand small to the left of the picture that was made of them.
"""

from dataclasses import dataclass
from itertools import groupby
from textwrap import wrap

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from kleinod.evaluation.case_set import Case
from kleinod.evaluation.scoring import Mark

SIDE, SMALL, GAP, TEXT, TITLE = 128, 60, 10, 40, 26
_WIDTH = 12 * (SIDE + GAP) + GAP
_RIGHT, _WRONG = (20, 140, 60), (205, 40, 40)


@dataclass
class _Pen:
    """The sheet so far and where the next cell goes."""

    sheet: Image.Image
    x: int = GAP
    y: int = GAP


def sheet(pictures: list[np.ndarray], marks: list[Mark]) -> Image.Image:
    """All tasks from top to bottom, each with its title and its share of right ones."""
    pen = _Pen(Image.new("RGB", (_WIDTH, _height(marks)), "white"))
    pairs = list(zip(pictures, marks, strict=True))
    for title, members in groupby(pairs, key=lambda pair: _title(pair[1].case)):
        group = list(members)
        _write_title(pen, f"{title}: {sum(m.is_right for _, m in group)} of {len(group)}")
        for picture, mark in group:
            _draw_cell(pen, picture, mark)
        pen.x, pen.y = GAP, pen.y + SIDE + TEXT
    used = np.flatnonzero((np.asarray(pen.sheet) < 255).any(axis=(0, 2)))
    return pen.sheet.crop((0, 0, int(used[-1]) + GAP, pen.sheet.height))


def _title(case: Case) -> str:
    titles = {
        "single": "one object",
        "pair": "two objects",
        "count": "several of one",
        "size": "other sizes",
    }
    return titles.get(case.task, f"{case.task}, {case.kind}")


def _cell_width(case: Case) -> int:
    return SIDE + GAP + (SMALL + 4 if case.references else 0)


def _height(marks: list[Mark]) -> int:
    """What the cells of `sheet` need, by the same walk."""
    height = GAP
    for _, members in groupby(marks, key=lambda mark: _title(mark.case)):
        x, height = GAP, height + TITLE
        for mark in members:
            width = _cell_width(mark.case)
            if x + width > _WIDTH:
                x, height = GAP, height + SIDE + TEXT
            x += width
        height += SIDE + TEXT
    return height + GAP


def _write_title(pen: _Pen, words: str) -> None:
    font = ImageFont.load_default(15)
    ImageDraw.Draw(pen.sheet).text((GAP, pen.y + 4), words, "black", font)
    pen.x, pen.y = GAP, pen.y + TITLE


def _draw_cell(pen: _Pen, picture: np.ndarray, mark: Mark) -> None:
    width = _cell_width(mark.case)
    if pen.x + width > _WIDTH:
        pen.x, pen.y = GAP, pen.y + SIDE + TEXT
    x, y = pen.x, pen.y
    draw = ImageDraw.Draw(pen.sheet)
    for index, reference in enumerate(mark.case.pictures[:-1]):
        small = Image.fromarray(reference).resize((SMALL, SMALL))
        pen.sheet.paste(small, (x, y + index * (SMALL + 4)))
    left = x + width - SIDE - GAP
    fitted = Image.fromarray(picture)
    fitted.thumbnail((SIDE, SIDE))
    pen.sheet.paste(fitted, (left, y))
    colour = _RIGHT if mark.is_right else _WRONG
    corner = left + fitted.width, y + fitted.height
    draw.rectangle((left - 2, y - 2, corner[0] + 1, corner[1] + 1), outline=colour, width=2)
    lines = wrap(mark.case.prompt, (width - GAP) // 6)[:3]
    draw.multiline_text((x, y + SIDE + 2), "\n".join(lines), "black", ImageFont.load_default(10))
    pen.x += width
