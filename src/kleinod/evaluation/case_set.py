"""The prompts of the evaluation, stored once: what is asked, and the scene that would be right.

A folder holds cases.json, and pictures.webp with the composed references and targets of the edits,
so that an evaluation needs no icons. `evaluation_cases` draws them; every run uses the same ones.
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kleinod.errors import WeightsError
from kleinod.icons.layouts import SIZE
from kleinod.icons.scenes import Scene, Thing

FOLDER = Path(__file__).parent / "oracle"
TASKS = ("single", "pair", "count", "size", "edit", "joining")
_COLUMNS = 16


@dataclass(frozen=True)
class Case:
    """One request and what it should give.

    `kind` is the relation, the number, the size of the picture, the edit or the joining.
    `references` and `target` are scenes; `pictures` their renderings, references first, or none.
    """

    task: str
    kind: str
    prompt: str
    target: Scene
    references: tuple[Scene, ...] = ()
    pictures: tuple[np.ndarray, ...] = ()

    @property
    def concepts(self) -> set[int]:
        """Every object that is asked for or shown."""
        return {t.concept for scene in (self.target, *self.references) for t in scene.things}


def save(cases: list[Case], folder: Path) -> None:
    """Write cases.json and pictures.webp."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(_plain(case), separators=(",", ":")) for case in cases]
    (folder / "cases.json").write_text("[\n" + ",\n".join(lines) + "\n]\n", "utf-8")
    pictures = [picture for case in cases for picture in case.pictures]
    rows = -(-len(pictures) // _COLUMNS)
    sheet = Image.new("RGB", (_COLUMNS * SIZE, rows * SIZE))
    for index, picture in enumerate(pictures):
        sheet.paste(Image.fromarray(picture), (index % _COLUMNS * SIZE, index // _COLUMNS * SIZE))
    sheet.save(folder / "pictures.webp", quality=88, method=6)


def load(folder: Path = FOLDER) -> list[Case]:
    """Read what `save` wrote. Raises WeightsError."""
    if not (folder / "cases.json").is_file():
        raise WeightsError(f"evaluation: {folder}/cases.json is missing; install kleinod anew")
    entries = json.loads((folder / "cases.json").read_text("utf-8"))
    with Image.open(folder / "pictures.webp") as sheet:
        pixels = np.asarray(sheet.convert("RGB"))
    cases, used = [], 0
    for entry in entries:
        references = tuple(_scene(scene) for scene in entry["references"])
        count = len(references) + 1 if references else 0
        pictures = tuple(_cut(pixels, index) for index in range(used, used + count))
        used += count
        target = _scene(entry["target"])
        named = entry["task"], entry["kind"], entry["prompt"]
        cases.append(Case(*named, target, references, pictures))
    return cases


def first_of_each(cases: list[Case], count: int) -> list[Case]:
    """The first `count` cases of every task and, for edits and joinings, of every kind."""
    taken: dict[tuple[str, str], int] = {}
    kept = []
    for case in cases:
        key = case.task, case.kind if case.references else ""
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= count:
            kept.append(case)
    return kept


def without_pictures(case: Case) -> Case:
    """The case as its words and scenes alone."""
    return replace(case, pictures=())


def _cut(pixels: np.ndarray, index: int) -> np.ndarray:
    top, left = index // _COLUMNS * SIZE, index % _COLUMNS * SIZE
    return pixels[top : top + SIZE, left : left + SIZE]


def _plain(case: Case) -> dict[str, Any]:
    facts = asdict(without_pictures(case))
    del facts["pictures"]
    return facts


def _scene(entry: dict[str, Any]) -> Scene:
    things = tuple(Thing(**{**t, "centre": tuple(t["centre"])}) for t in entry["things"])
    return Scene(things, entry["style"], entry["background"], tuple(entry["size"]))
