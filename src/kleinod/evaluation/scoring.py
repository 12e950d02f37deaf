"""Mark one painted picture: is what was asked there, in place, and did the rest stay?

The oracle says what stands in each box of the wanted scene; backgrounds and what should not have
changed are measured in the pixels. Positions and sizes follow the picture's own size.
"""

from dataclasses import dataclass, field

import numpy as np

from kleinod.evaluation.case_set import Case
from kleinod.evaluation.judge import NOTHING, ROOM, UNCLEAR, Box, Oracle, Sighting
from kleinod.icons.icons import STYLES
from kleinod.icons.layouts import BACKGROUNDS, SIZE, TINTS
from kleinod.icons.scenes import Scene, Thing

# parts of an object's side: an object further away is out of place
MAX_OFFSET = 0.25
# log2 of its size over the wanted one; "smaller" and "larger" are 0.69
MAX_SIZE_ERROR = 0.3
# parts of a picture's pixels outside the wanted boxes that may differ from the background
MAX_STRAY = 0.03
_STRAY_LEVELS = 48
_CHANGED_LEVELS = 12
_MARGIN_PIXELS = 4


@dataclass(frozen=True)
class Mark:
    """A case's verdict: right as a whole; each aspect; error outside the edit in % of the range."""

    case: Case
    is_right: bool
    aspects: dict[str, float] = field(default_factory=dict)
    outside_error: float | None = None


def mark(oracle: Oracle, case: Case, picture: np.ndarray) -> Mark:
    """The verdict on a picture (h, w, 3), uint8."""
    scene = case.target
    sightings = oracle.look(picture, [box_of(t, picture) for t in scene.things])
    seen = [_is_in_place(s, t, picture) for s, t in zip(sightings, scene.things, strict=True)]
    aspects = {
        "concept": all(seen),
        "background": background_of(picture) == scene.background,
        "style": all(s.style == scene.style for s in sightings),
        "each": float(np.mean(seen)),
        "clear": all(seen) and all(s.is_clear for s in sightings),
    }
    right = aspects["concept"] and _demands(oracle, case, picture, sightings, aspects)
    error = outside_error(case, picture) if case.task == "edit" else None
    return Mark(case, bool(right), {k: float(v) for k, v in aspects.items()}, error)


def _demands(
    oracle: Oracle,
    case: Case,
    picture: np.ndarray,
    sightings: list[Sighting],
    aspects: dict[str, float],
) -> bool:
    """What a case asks for besides the objects in their places."""
    kind = case.kind
    if case.task == "count":
        return stray(case.target, picture) <= MAX_STRAY
    if case.task not in ("edit", "joining"):
        return True
    if not aspects["background"]:
        return False
    if kind == "style":
        return bool(aspects["style"])
    if kind == "mirror":
        return _is_nearer_to_target(case, picture)
    if kind == "move":
        return stray(case.target, picture) <= MAX_STRAY
    if kind == "remove":
        gone = box_of(case.references[0].things[0], picture)
        return oracle.look(picture, [gone])[0].concept == NOTHING
    if kind == "size":
        wanted = box_of(case.target.things[0], picture).side
        return abs(np.log2(sightings[0].side / wanted)) <= MAX_SIZE_ERROR
    if kind == "recolour":
        return sightings[0].tint == TINTS.index(case.target.things[0].tint or "") + 1
    return True


def box_of(thing: Thing, picture: np.ndarray) -> Box:
    """Where a thing should stand in a picture of any size."""
    height, width = picture.shape[:2]
    x, y = thing.centre
    return Box((x * width / SIZE, y * height / SIZE), thing.side * min(width, height) / SIZE)


def _is_in_place(sighting: Sighting, thing: Thing, picture: np.ndarray) -> bool:
    box = box_of(thing, picture)
    away = max(abs(a - b) for a, b in zip(sighting.centre, box.centre, strict=True))
    return sighting.concept == thing.concept and away <= MAX_OFFSET * box.side


def border_colour(picture: np.ndarray) -> np.ndarray:
    """The median (3,) of the top and bottom rows."""
    rows = max(2, picture.shape[0] // 32)
    border = np.concatenate([picture[:rows].reshape(-1, 3), picture[-rows:].reshape(-1, 3)])
    return np.median(border.astype(float), axis=0)


def background_of(picture: np.ndarray) -> str:
    """The named background nearest to the picture's border."""
    colour = border_colour(picture)
    return min(BACKGROUNDS, key=lambda name: float(((colour - BACKGROUNDS[name]) ** 2).sum()))


def stray(scene: Scene, picture: np.ndarray) -> float:
    """The part of the pixels that differ from the background outside the scene's boxes."""
    different = np.abs(picture - border_colour(picture)).max(axis=2) > _STRAY_LEVELS
    outside = np.ones(picture.shape[:2], dtype=bool)
    for thing in scene.things:
        box = box_of(thing, picture)
        half = box.side * ROOM / 2
        left, top, right, bottom = (
            max(0, round(box.centre[axis] + sign * half)) for sign in (-1, 1) for axis in (0, 1)
        )
        outside[top:bottom, left:right] = False
    return float((different & outside).mean())


def outside_of_edit(case: Case) -> np.ndarray:
    """(128, 128): pixels that reference and target share, some pixels away from the change."""
    before, after = case.pictures[0].astype(float), case.pictures[-1].astype(float)
    changed = np.abs(after - before).max(axis=2) > _CHANGED_LEVELS
    padded = np.pad(changed, _MARGIN_PIXELS)
    shifts = range(2 * _MARGIN_PIXELS + 1)
    rows = np.any([padded[s : s + SIZE] for s in shifts], axis=0)
    return ~np.any([rows[:, s : s + SIZE] for s in shifts], axis=0)


def outside_error(case: Case, picture: np.ndarray) -> float | None:
    """Mean absolute error against the reference outside the edit, in % of the range; None where
    the edit leaves nothing alone or the picture has another size."""
    outside = outside_of_edit(case)
    if picture.shape != case.pictures[0].shape or not outside.any():
        return None
    difference = np.abs(picture.astype(float) - case.pictures[0])[outside]
    return float(difference.mean() / 2.55)


def _is_nearer_to_target(case: Case, picture: np.ndarray) -> bool:
    if picture.shape != case.pictures[0].shape:
        return False
    before, after = (
        float(np.abs(picture.astype(float) - c).mean())
        for c in (case.pictures[0], case.pictures[-1])
    )
    return after < before


def words_of(sighting: Sighting, oracle: Oracle) -> str:
    """'fox, flat', 'unclear' or 'nothing'."""
    if sighting.concept < 0:
        return "unclear" if sighting.concept == UNCLEAR else "nothing"
    return f"{oracle.concepts[sighting.concept]}, {STYLES[sighting.style]}"
