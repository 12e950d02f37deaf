"""Remove a named concept from a trained model, and leave the rest as it is.

The model is distilled into itself: where prompt or references show the concept, the student learns
to answer as the teacher does when another thing stands in its place; everywhere else, to answer as
before. So it needs no many-step base, and the references are covered as the words are. (Concept
ablation by an anchor: Kumari et al., 2023; here on the teacher's own paths, and with references.)
"""

import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from kleinod.icons.captions import plural, with_article
from kleinod.icons.edits import HARDER, Editor
from kleinod.icons.icons import Icons
from kleinod.icons.scenes import Composer, Example, Scene
from kleinod.training.distillation import DistillationRecipe
from kleinod.training.pool import Drawn


@dataclass(frozen=True)
class RemovalRecipe(DistillationRecipe):
    """Small steps along the teacher's own four, over many paths: the teacher needs no guidance.

    The kinds are text alone, one reference, two; `kept` are the parts of each kind's examples that
    show nothing of the concept.
    """

    steps: int = 1500
    substeps: int = 1
    guidance: float = 1.0
    shares: tuple[float, ...] = (0.3, 0.42, 0.28)
    muon_rate: float = 1e-3
    learning_rate: float = 1e-4
    decay_from: float = 0.25
    first_paths: int = 768
    first_examples: int = 1024
    fresh: int = 48
    refill_every: int = 6
    kept: tuple[float, ...] = (0.8, 0.4, 0.5)
    seed: int = 5
    name: str = "removed"


SHARE = 0.7
"""How often an insisting composer's draw holds its concept; so one of two references may."""
COPYING = ("background", "mirror", "mirror", "move", "move", "recolour", "recolour")
"""Edits that keep the object as it is seen: the hardest to answer with another."""


class Insisting(Composer):
    """A composer most of whose draws hold one concept."""

    def __init__(self, icons: Icons, seed: int | np.random.Generator, concept: int) -> None:
        super().__init__(icons, seed)
        self.concept = concept

    def concepts(self, number: int) -> list[int]:
        """Different concepts, most often that one among them."""
        if self.rng.random() > SHARE:
            return super().concepts(number)
        others = [c for c in super().concepts(len(self.names)) if c != self.concept]
        chosen = [self.concept, *others[: number - 1]]
        return [chosen[i] for i in self.rng.permutation(len(chosen))]


def instead(example: Example, names: tuple[str, ...], old: int, new: int) -> Example:
    """The example with another concept in the words and in every picture."""
    references, words, target = example
    scenes = (*references, target)
    if not any(thing.concept == old for scene in scenes for thing in scene.things):
        return example
    pairs = (
        (with_article(names[old]), with_article(names[new])),
        (plural(names[old]), plural(names[new])),
        (names[old], names[new]),
    )
    for before, after in pairs:
        words = re.sub(rf"\b{re.escape(before)}\b", after, words)

    def swapped(scene: Scene) -> Scene:
        things = tuple(replace(t, concept=new) if t.concept == old else t for t in scene.things)
        return replace(scene, things=things)

    return tuple(swapped(r) for r in references), words, swapped(target)


def twins(
    draw: Callable[[], tuple[Drawn, Drawn]],
) -> tuple[Callable[[], Drawn], Callable[[], Drawn]]:
    """Two makers from one that draws pairs: the second gives the other halves in the same order."""
    waiting: deque[Drawn] = deque()

    def first() -> Drawn:
        asked, shown = draw()
        waiting.append(shown)
        return asked

    return first, waiting.popleft


@dataclass(frozen=True)
class Removal:
    """What is removed, and what stands in its place; numbers of concepts."""

    concept: int
    anchor: int
    kept: tuple[float, ...] = RemovalRecipe.kept

    def pair(self, plain: Composer, insisting: Insisting, kind: int) -> tuple[Example, Example]:
        """An example of `kind` references as the student is asked it, and as the teacher is."""
        if plain.rng.random() < self.kept[kind]:
            kept = instead(_example(plain, kind), plain.names, self.concept, self.anchor)
            return kept, kept
        asked = _example(insisting, kind, COPYING)
        return asked, instead(asked, plain.names, self.concept, self.anchor)


def _example(composer: Composer, kind: int, harder: tuple[str, ...] = HARDER) -> Example:
    if kind == 0:
        scene, words = composer.any()
        return (), words, scene
    editor = Editor(composer, harder)
    return editor.one() if kind == 1 else editor.two()
