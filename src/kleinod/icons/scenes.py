"""Scenes composed from icons on the fly, with captions in varied wording.

A scene is a background and one to four placed objects; what a caption leaves unsaid has a fixed
meaning (cartoon style, white background, middle of the picture), so that short prompts are exact.
Places are given on a canvas of 128 pixels; on another, places follow its sides, and sizes of
objects its shorter side.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, ImageOps

from kleinod.icons.captions import UNCOUNTED, counted, with_article
from kleinod.icons.held_out_rules import count_is_held_out, pair_is_held_out
from kleinod.icons.icons import STYLES, Icons
from kleinod.icons.layouts import (
    BACKGROUNDS,
    CORNERS,
    GROUPS,
    PAIRS,
    SIZE,
    STYLE_PHRASES,
    TINTS,
    TRIPLES,
)

# input images and target, (h, w, 3) of uint8 each, and the caption, as training/pool.py takes them
Drawn = tuple[list[np.ndarray], str]


@dataclass(frozen=True)
class Thing:
    """One object: concept index, centre and side on a canvas of 128; mirrored, or in a colour."""

    concept: int
    centre: tuple[float, float] = (64.0, 64.0)
    side: float = 104.0
    mirrored: bool = False
    tint: str | None = None


@dataclass(frozen=True)
class Scene:
    """Objects in one style before a named background; size is width and height in pixels."""

    things: tuple[Thing, ...]
    style: int = 0
    background: str = "white"
    size: tuple[int, int] = (SIZE, SIZE)


def held_out(scene: Scene) -> bool:
    """One combination in nineteen of object, style and background is kept for the evaluation."""
    numbers = scene.things[0].concept, scene.style, list(BACKGROUNDS).index(scene.background)
    return len(scene.things) == 1 and (7 * numbers[0] + 3 * numbers[1] + 5 * numbers[2]) % 19 == 0


Example = tuple[tuple[Scene, ...], str, Scene]
"""References, words, and the scene that they ask for."""


class Composer:
    """Draws scenes and words them, from one random generator: its own, or one that it shares."""

    def __init__(self, icons: Icons, seed: int | np.random.Generator) -> None:
        self.rng = np.random.default_rng(seed)
        self.names = icons.names
        self._pictures = {
            (int(c), int(s)): Image.fromarray(p)
            for c, s, p in zip(icons.concept, icons.style, icons.pixels, strict=True)
        }

    def choice(self, options: tuple[str, ...] | list[str]) -> str:
        """One of some words."""
        return options[int(self.rng.integers(len(options)))]

    def concepts(self, number: int) -> list[int]:
        """Different concepts."""
        return [int(c) for c in self.rng.choice(len(self.names), number, replace=False)]

    def render(self, scene: Scene) -> np.ndarray:
        """The picture (height, width, 3), uint8."""
        width, height = scene.size
        picture = Image.new("RGB", scene.size, BACKGROUNDS[scene.background])
        for thing in scene.things:
            side = max(8, round(thing.side * min(scene.size) / SIZE))
            icon = self._icon(thing, scene.style).resize((side, side))
            if thing.mirrored:
                icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            x, y = thing.centre[0] * width / SIZE, thing.centre[1] * height / SIZE
            picture.paste(icon, (round(x - side / 2), round(y - side / 2)), icon)
        return np.asarray(picture)

    def _icon(self, thing: Thing, style: int) -> Image.Image:
        """Its drawing; a tinted one keeps light and shade, and takes the colour's hue."""
        icon = self._pictures[thing.concept, style]
        if thing.tint is None:
            return icon
        colour = BACKGROUNDS[thing.tint]
        dark = tuple(c // 5 for c in colour)
        pale = tuple(255 - (255 - c) // 5 for c in colour)
        tinted = ImageOps.colorize(icon.convert("L"), dark, pale, colour).convert("RGBA")
        tinted.putalpha(icon.getchannel("A"))
        return tinted

    def thing(self, concept: int, centre: tuple[float, float], side: float) -> Thing:
        """An object with a little jitter in place and size."""
        dx, dy = self.rng.uniform(-4, 4, 2)
        return Thing(concept, (centre[0] + dx, centre[1] + dy), side * self.rng.uniform(0.94, 1.06))

    def look(self) -> tuple[int, str, list[str]]:
        """Style and background, and the words that a caption needs for them."""
        style, background, words = 0, "white", []
        if self.rng.random() < 0.7:
            style = int(self.rng.integers(len(STYLES)))
            words.append(self.choice(STYLE_PHRASES[STYLES[style]]))
        if self.rng.random() < 0.7:
            background = self.choice(list(BACKGROUNDS))
            endings = (f"on {with_article(background)} background", f"{background} background")
            words.append(self.choice((*endings, f"on {background}")))
        return style, background, words

    def single(self) -> tuple[Scene, str]:
        """One object, sometimes small or in a corner; never a held-out combination."""
        while True:
            scene, words = self._single()
            if not held_out(scene):
                return scene, words

    def _single(self) -> tuple[Scene, str]:
        (concept,) = self.concepts(1)
        style, background, words = self.look()
        name, centre, side = with_article(self.names[concept]), (64.0, 64.0), 104.0
        if self.rng.random() < 0.12:
            place = self.choice(list(CORNERS))
            centre, side = CORNERS[place], 66.0
            words.insert(0, f"in the {place} corner")
        elif self.rng.random() < 0.08:
            side = 66.0
            name = with_article("small " + self.names[concept])
        elif self.rng.random() < 0.25:
            name = self.choice((self.names[concept], "a picture of " + name))
        return Scene((self.thing(concept, centre, side),), style, background), self.join(
            name, words
        )

    def two(self) -> tuple[int, int, str]:
        """Two different objects and how the first stands to the second; none that is held out."""
        while True:
            first, second = self.concepts(2)
            relation = self.choice(list(PAIRS))
            if not pair_is_held_out(first, second, relation):
                return first, second, relation

    def pair(self) -> tuple[Scene, str]:
        """Two objects and how they stand."""
        first, second, relation = self.two()
        style, background, words = self.look()
        places = PAIRS[relation]
        things = tuple(self.thing(c, p, 60.0) for c, p in zip((first, second), places, strict=True))
        a, b = with_article(self.names[first]), with_article(self.names[second])
        sentence = f"{a} {relation} {b}"
        if relation == "to the left of" and self.rng.random() < 0.5:
            sentence = f"{a} and {b}"
        return Scene(things, style, background), self.join(sentence, words)

    def group(self) -> tuple[Scene, str]:
        """Two to four of one object."""
        number = int(self.rng.integers(2, 5))
        concept = next(
            c
            for c in self.concepts(len(self.names))
            if self.names[c] not in UNCOUNTED and not count_is_held_out(c, number)
        )
        style, background, words = self.look()
        things = tuple(self.thing(concept, place, 58.0) for place in GROUPS[number])
        return Scene(things, style, background), self.join(
            counted(self.names[concept], number), words
        )

    def triple(self) -> tuple[Scene, str]:
        """Three different objects."""
        concepts = self.concepts(3)
        sentence = self.choice(list(TRIPLES))
        style, background, words = self.look()
        places = zip(concepts, TRIPLES[sentence], strict=True)
        things = tuple(self.thing(concept, place, 58.0) for concept, place in places)
        names = [self.with_name(concept) for concept in concepts]
        return Scene(things, style, background), self.join(sentence.format(*names), words)

    def tinted(self) -> tuple[Scene, str]:
        """One object in a colour that it need not have."""
        (concept,) = self.concepts(1)
        tint = self.choice(TINTS)
        style, background, words = self.look()
        thing = replace(self.thing(concept, (64, 64), 104.0), tint=tint)
        return Scene((thing,), style, background), self.join(
            with_article(f"{tint} {self.names[concept]}"), words
        )

    def any(self) -> tuple[Scene, str]:
        """A scene of any of these kinds; one object most often, its details are what blurs."""
        kinds = (self.single, self.pair, self.group, self.triple, self.tinted)
        return kinds[int(self.rng.choice(len(kinds), p=(0.46, 0.30, 0.12, 0.06, 0.06)))]()

    def with_name(self, concept: int) -> str:
        """'a fox'."""
        return with_article(self.names[concept])

    def describe(self, scene: Scene) -> str:
        """A prompt that states object, style and background of a scene with one object."""
        name = self.with_name(scene.things[0].concept)
        ground = f"on {with_article(scene.background)} background"
        return f"{name}, {STYLE_PHRASES[STYLES[scene.style]][0]}, {ground}"

    def join(self, name: str, words: list[str]) -> str:
        """Sentence and its additions, with commas where they read better."""
        result = name
        for word in words:
            comma = not word.startswith(("on ", "in ")) or self.rng.random() < 0.3
            result += (", " if comma else " ") + word
        return result


def drawn(composer: Composer, example: Example, size: tuple[int, int] = (SIZE, SIZE)) -> Drawn:
    """An example's scenes rendered on a canvas of one size, the target first; and the words."""
    references, words, target = example
    return [composer.render(replace(s, size=size)) for s in (target, *references)], words


def drawing(
    composer: Composer, make: Callable[[], Example], size: tuple[int, int] = (SIZE, SIZE)
) -> Callable[[], Drawn]:
    """A pool's maker of drawn examples."""
    return lambda: drawn(composer, make(), size)
