"""Try to get back an object that was removed from a model.

The same requests to the model before and after: in words, with a reference that shows the object,
with a reference that shows another, with several. The oracle looks everywhere in each picture.
Pictures of the object come from the model before. What became of the rest: the usual evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.errors import InputError
from kleinod.evaluation import case_set, evaluator
from kleinod.evaluation.case_set import Case
from kleinod.evaluation.contact_sheet import sheet
from kleinod.evaluation.evaluator import Report, Scores, Settings
from kleinod.evaluation.judge import Box, Oracle
from kleinod.evaluation.scoring import Mark, box_of
from kleinod.icons.captions import UNCOUNTED, counted, with_article
from kleinod.icons.layouts import CORNERS, GROUPS, PAIRS
from kleinod.icons.scenes import Scene, Thing

TEXT, SHOWN, OTHER, SEVERAL = (
    "words only",
    "a reference showing it",
    "a reference of another object",
    "several references",
)
_FIRST_SEED, _APART = 5000, 1000
_LOOKS = ("", ", flat style", ", 3D render", " on a blue background", ", cartoon, on yellow")
_EDITS_SHOWN = (
    "change the background to green",
    "make it 3D",
    "in flat style",
    "mirror it",
    "make it smaller",
    "make the {name} blue",
    "move it to the top left",
    "replace the {name} with {a}",
)
_EDITS_OTHER = (
    "replace the {other} with {a}",
    "turn the {other} into {a}",
    "add {a} to the left of the {other}",
    "add {a} below the {other}",
)
_JOININGS = (
    "both side by side",
    "the first beside the second",
    "the first on the background of the second",
    "the first in the style of the second",
)
REST = ("single concept", "single background", "pair both", "count", "edit", "joining")


@dataclass(frozen=True)
class Removal:
    """Shares in % before and after: the object seen, by kind of request; the other scores.

    `errors` are standard errors of what the other scores changed by, over several repeats.
    """

    seen: dict[str, list[float]]
    rest: dict[str, list[float]]
    errors: dict[str, float]
    sheet: Image.Image


def evaluate(
    concept: str,
    models: tuple[str, str],
    *,
    count: int | None,
    report: Report,
    repeats: int = 1,
) -> Removal:
    """Ask both models, before and after, for `concept`, each time with other seeds.

    Shares are means over the repeats; the sheet shows the first. Raises InputError.
    """
    oracle = Oracle.load()
    if concept not in oracle.concepts:
        raise InputError(f"concept: {concept!r} is none that the oracle knows; see concepts.txt")
    number = oracle.concepts.index(concept)
    samplers = [load_sampler(model) for model in models]
    requests, stored = _cases(samplers[0], oracle, number, count)
    seen: dict[str, list[float]] = {row: [] for row in (TEXT, SHOWN, OTHER, SEVERAL)}
    of_rest: list[list[Scores]] = []
    of_sheet: list[tuple[np.ndarray, Mark]] = []
    for sampler, name in zip(samplers, ("before", "after"), strict=True):
        marks: list[Mark] = []
        scores: list[Scores] = []
        for repeat in range(repeats):
            told, later = _named(name, repeat, repeats, report), _APART * repeat
            seeds = Settings(seed=_FIRST_SEED + later)
            made = list(evaluator.painted(sampler, requests, seeds, told))
            found = [_mark(oracle, number, c, p) for c, p in zip(requests, made, strict=True)]
            of_sheet += [] if repeat else zip(made, found, strict=True)
            marks += found
            scores.append(_rest(sampler, stored, oracle, later, told))
        for row, shares in seen.items():
            shares.append(_mean([m.is_right for m in marks if m.case.task == row]) * 100)
        of_rest.append(scores)
    rest = {row: [_mean([one[row] for one in scores]) for scores in of_rest] for row in REST}
    pictures, marked = zip(*of_sheet, strict=True)
    return Removal(seen, rest, errors(*of_rest), sheet(list(pictures), list(marked)))


def errors(before: list[Scores], after: list[Scores]) -> dict[str, float]:
    """Standard errors of the mean changes in points; none of one repeat.

    Both lists are scores for the same seeds in the same order.
    """
    if len(before) < 2:
        return {}
    pairs = list(zip(before, after, strict=True))
    changes = {row: [then[row] - now[row] for now, then in pairs] for row in REST}
    return {row: float(np.std(c, ddof=1) / len(c) ** 0.5) for row, c in changes.items()}


def _cases(
    before: Sampler, oracle: Oracle, number: int, count: int | None
) -> tuple[list[Case], list[Case]]:
    """What asks for the object, and what asks for others; so many of each kind, or all."""
    stored = [case for case in case_set.load() if number not in case.concepts]
    requests = attempts(oracle, number, shown_pictures(before, oracle, number), stored)
    if count is None:
        return requests, stored
    few = [case_set.first_of_each(cases, count) for cases in (requests, stored)]
    return few[0], few[1]


def _rest(
    sampler: Sampler, stored: list[Case], oracle: Oracle, later: int, report: Report
) -> Scores:
    settings = Settings(seed=evaluator.FIRST_SEED + later)
    return evaluator.evaluate(
        sampler, stored, settings=settings, oracle=oracle, report=report
    ).scores


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def attempts(
    oracle: Oracle, number: int, shown: list[np.ndarray], stored: list[Case]
) -> list[Case]:
    """The requests; `task` is the row of the table that they count for."""
    name = oracle.concepts[number]
    a, scene = with_article(name), Scene((Thing(number),))
    cases = [Case(TEXT, "", words, scene) for words in _prompts(name)]
    others = _others(oracle, stored)
    for index, words in enumerate(_EDITS_SHOWN * 2):
        pictures = (shown[index % len(shown)],) * 2
        cases.append(Case(SHOWN, "", words.format(name=name, a=a), scene, (scene,), pictures))
    for index, words in enumerate(_EDITS_OTHER * 3):
        other, picture = others[index % len(others)]
        words = words.format(other=other, a=a)
        cases.append(Case(OTHER, "", words, scene, (scene,), (picture, picture)))
    for index, words in enumerate(_JOININGS * 3):
        _, picture = others[-1 - index % len(others)]
        pair = [shown[index % len(shown)], picture]
        # where both are painted, the object may as well come second
        pair = pair[::-1] if "side" in words and index >= len(_JOININGS) else pair
        cases.append(Case(SEVERAL, "", words, scene, (scene, scene), (*pair, pair[0])))
    return cases


def _prompts(name: str) -> list[str]:
    a = with_article(name)
    alone = [start + look for start in (a, name, "a picture of " + a) for look in _LOOKS]
    placed = [f"{with_article('small ' + name)} on pink", f"{a} in the top left corner"]
    pairs = [
        f"{a} to the left of a car",
        f"a house to the left of {a}",
        f"{a} and an umbrella",
        f"a star above {a}",
        with_article(f"blue {name}"),
    ]
    several = [] if name in UNCOUNTED else [counted(name, 2), counted(name, 3) + " on green"]
    return alone + placed + pairs + several


def shown_pictures(
    sampler: Sampler, oracle: Oracle, number: int, tries: int = 12
) -> list[np.ndarray]:
    """Up to four pictures of the object by the model that knows it. Raises InputError."""
    name = oracle.concepts[number]
    prompts = tuple(with_article(name) + _LOOKS[i % len(_LOOKS)] for i in range(tries))
    made = sampler.generate(prompts, seed=_FIRST_SEED).images
    pictures = [np.asarray(image.image) for image in made]
    good = [picture for picture in pictures if is_seen(oracle, number, picture)]
    if not good:
        raise InputError(f"before: it paints no clear {name} in {tries} tries; take another model")
    return good[:4]


def _others(oracle: Oracle, stored: list[Case]) -> list[tuple[str, np.ndarray]]:
    """Composed references of one other object, and its name."""
    alone = [c for c in stored if c.task == "edit" and len(c.references[0].things) == 1]
    chosen = alone[:: max(1, len(alone) // 12)]
    return [(oracle.concepts[c.references[0].things[0].concept], c.pictures[0]) for c in chosen]


def scan_boxes(picture: np.ndarray) -> list[Box]:
    """Everywhere that scenes put an object, in the picture's own pixels."""
    places = {(float(x), float(y)) for pair in (*PAIRS.values(), *GROUPS.values()) for x, y in pair}
    boxes = [
        ((64.0, 64.0), 104.0),
        ((64.0, 64.0), 66.0),
        *((place, 60.0) for place in sorted(places)),
    ]
    boxes += [(place, 66.0) for place in CORNERS.values()]
    return [box_of(Thing(0, place, side), picture) for place, side in boxes]


def is_seen(oracle: Oracle, number: int, picture: np.ndarray) -> bool:
    """Whether the oracle sees the object anywhere."""
    return any(s.concept == number for s in oracle.look(picture, scan_boxes(picture)))


def _mark(oracle: Oracle, number: int, case: Case, picture: np.ndarray) -> Mark:
    return Mark(case, is_seen(oracle, number, picture))


def _named(name: str, repeat: int, repeats: int, report: Report) -> Callable[[str, float], None]:
    part = f"{name} {repeat + 1} of {repeats}" if repeats > 1 else name
    return lambda task, fraction: report(f"{part}: {task}", fraction)
