"""Draw the evaluation's cases: combinations that training leaves out, worded as in training."""

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np

from kleinod.evaluation.case_set import Case
from kleinod.icons import held_out_rules
from kleinod.icons.captions import UNCOUNTED, counted
from kleinod.icons.edits import Editor, subject_and_detail
from kleinod.icons.icons import STYLES
from kleinod.icons.layouts import BACKGROUNDS, GROUPS, PAIRS
from kleinod.icons.scenes import Composer, Example, Scene, Thing, held_out

COUNTS = {"single": 96, "pair": 60, "count": 24, "size": 16, "edit": 8, "joining": 12}
SIZES = ((64, 64), (96, 96), (192, 192), (256, 256), (192, 128), (128, 192), (256, 128), (96, 160))
# parts of the range: a mirrored or recoloured object must differ by so much to be told apart
_MIN_DIFFERENCE = 0.06


def draw(composer: Composer) -> list[Case]:
    """All cases, always the same for one composer's seed."""
    singles = _singles(composer)
    sized = _sized(composer, singles[COUNTS["single"] :][: COUNTS["size"]])
    edits = [case for kind in held_out_rules.EDITS for case in _edits(composer, kind)]
    joined = [case for kind in held_out_rules.JOININGS for case in _joinings(composer, kind)]
    plain = singles[: COUNTS["single"]] + _pairs(composer) + _counts(composer)
    return plain + sized + edits + joined


def _singles(composer: Composer) -> list[Case]:
    numbers = product(range(len(composer.names)), range(len(STYLES)), BACKGROUNDS)
    every = [Scene((Thing(concept),), style, ground) for concept, style, ground in numbers]
    kept = [scene for scene in every if held_out(scene)]
    composer.rng.shuffle(kept)
    return [Case("single", "", composer.describe(scene), scene) for scene in kept]


def _sized(composer: Composer, singles: list[Case]) -> list[Case]:
    cases = []
    for index, case in enumerate(singles):
        width, height = SIZES[index % len(SIZES)]
        target = replace(case.target, size=(width, height))
        cases.append(replace(case, task="size", kind=f"{width}x{height}", target=target))
    return cases


def _pairs(composer: Composer) -> list[Case]:
    cases: list[Case] = []
    relations = list(PAIRS)
    while len(cases) < COUNTS["pair"]:
        first, second = composer.concepts(2)
        relation = relations[len(cases) % len(relations)]
        if held_out_rules.pair_is_held_out(first, second, relation):
            style, background, words = composer.look()
            places = zip((first, second), PAIRS[relation], strict=True)
            scene = Scene(tuple(Thing(c, p, 60.0) for c, p in places), style, background)
            names = composer.with_name(first), composer.with_name(second)
            sentence = f"{names[0]} {relation} {names[1]}"
            cases.append(Case("pair", relation, composer.join(sentence, words), scene))
    return cases


def _counts(composer: Composer) -> list[Case]:
    kept = [
        (concept, number)
        for concept, number in product(range(len(composer.names)), GROUPS)
        if held_out_rules.count_is_held_out(concept, number)
        and composer.names[concept] not in UNCOUNTED
    ]
    cases = []
    for index in range(COUNTS["count"]):
        concept, number = kept[index % len(kept)]
        style, background, words = composer.look()
        things = tuple(Thing(concept, place, 58.0) for place in GROUPS[number])
        prompt = composer.join(counted(composer.names[concept], number), words)
        cases.append(Case("count", str(number), prompt, Scene(things, style, background)))
    return cases


def _edits(composer: Composer, kind: str) -> list[Case]:
    editor = Editor(composer)

    def is_kept(example: Example) -> bool:
        (before,), _, after = example
        return held_out_rules.edit_is_held_out(kind, *subject_and_detail(kind, before, after))

    return _drawn(composer, ("edit", kind), lambda: editor.example(kind), is_kept)


def _joinings(composer: Composer, kind: str) -> list[Case]:
    editor = Editor(composer)

    def is_kept(example: Example) -> bool:
        first, second = (scene.things[0].concept for scene in example[0])
        looks = [(scene.style, scene.background) for scene in example[0]]
        differs = {"beside": 0, "background": 1, "style": 0}[kind]
        told_apart = kind == "beside" or looks[0][differs] != looks[1][differs]
        return told_apart and held_out_rules.joining_is_held_out(kind, first, second)

    return _drawn(composer, ("joining", kind), lambda: editor.joined(kind), is_kept)


def _drawn(
    composer: Composer,
    named: tuple[str, str],
    make: Callable[[], Example],
    is_kept: Callable[[Example], bool],
) -> list[Case]:
    """Examples of one kind until there are enough that are held out and can be judged."""
    cases: list[Case] = []
    while len(cases) < COUNTS[named[0]]:
        example = make()
        if not is_kept(example):
            continue
        references, words, target = example
        pictures = tuple(composer.render(scene) for scene in (*references, target))
        if named[0] == "joining" or _changed(named[1], pictures[0], pictures[-1], target):
            cases.append(Case(*named, words, target, references, pictures))
    return cases


def _changed(kind: str, before: np.ndarray, after: np.ndarray, target: Scene) -> bool:
    """Whether a picture can tell that the edit was done."""
    thing = target.things[0]
    if target.background == thing.tint:
        return False
    difference = np.abs(after.astype(float) - before).mean() / 255
    return kind not in ("mirror", "recolour") or difference >= _MIN_DIFFERENCE
