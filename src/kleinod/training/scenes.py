"""Scenes composed from icons on the fly, with captions in varied wording.

A scene is a background and one or two placed objects; what a caption leaves unsaid has a fixed
meaning (cartoon style, white background, middle of the picture), so that short prompts are exact.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from kleinod.training.icons import STYLES, Icons

SIZE = 128
BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 24),
    "gray": (150, 150, 150),
    "red": (214, 48, 49),
    "orange": (245, 150, 50),
    "yellow": (250, 220, 90),
    "green": (90, 180, 90),
    "teal": (40, 160, 155),
    "blue": (50, 100, 215),
    "sky blue": (150, 205, 245),
    "purple": (130, 80, 190),
    "pink": (250, 175, 200),
    "brown": (135, 95, 65),
}
CORNERS = {
    "top left": (40, 40),
    "top right": (88, 40),
    "bottom left": (40, 88),
    "bottom right": (88, 88),
}
PAIRS = {
    "to the left of": ((34, 64), (94, 64)),
    "to the right of": ((94, 64), (34, 64)),
    "above": ((64, 34), (64, 94)),
    "below": ((64, 94), (64, 34)),
}
STYLE_PHRASES = {
    "cartoon": ("cartoon style", "cartoon"),
    "flat": ("flat style", "flat design"),
    "3D": ("3D style", "3D render"),
}


@dataclass(frozen=True)
class Thing:
    """One object: concept index, centre and side in pixels, mirrored or not."""

    concept: int
    centre: tuple[float, float] = (64.0, 64.0)
    side: float = 104.0
    mirrored: bool = False


@dataclass(frozen=True)
class Scene:
    """Objects in one style before a named background."""

    things: tuple[Thing, ...]
    style: int = 0
    background: str = "white"


UNCOUNTED = {"popcorn", "broccoli", "bread", "cheese", "fire", "french fries", "cherries", "grapes"}
SOUNDS_OPEN = {"hourglass"}
SOUNDS_CLOSED = {"ufo", "unicorn"}


def with_article(words: str) -> str:
    """'an owl', 'a fox', 'an hourglass', but 'popcorn' for what is not counted."""
    first = words.split()[0]
    if words in UNCOUNTED:
        return words
    opens = first in SOUNDS_OPEN or (first[0] in "aeiou" and first not in SOUNDS_CLOSED)
    return f"{'an' if opens else 'a'} {words}"


def held_out(scene: Scene) -> bool:
    """One combination in nineteen of object, style and background is kept for the evaluation."""
    numbers = scene.things[0].concept, scene.style, list(BACKGROUNDS).index(scene.background)
    return len(scene.things) == 1 and (7 * numbers[0] + 3 * numbers[1] + 5 * numbers[2]) % 19 == 0


class Composer:
    """Draws scenes and words them, from one random generator."""

    def __init__(self, icons: Icons, seed: int) -> None:
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
        """The picture (128, 128, 3), uint8."""
        picture = Image.new("RGB", (SIZE, SIZE), BACKGROUNDS[scene.background])
        for thing in scene.things:
            side = max(8, round(thing.side))
            icon = self._pictures[thing.concept, scene.style].resize((side, side))
            if thing.mirrored:
                icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            corner = [round(c - side / 2) for c in thing.centre]
            picture.paste(icon, (corner[0], corner[1]), icon)
        return np.asarray(picture)

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
        name, centre, side = with_article(self.names[concept]), (64, 64), 104.0
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

    def pair(self) -> tuple[Scene, str]:
        """Two objects and how they stand."""
        first, second = self.concepts(2)
        relation = self.choice(list(PAIRS))
        style, background, words = self.look()
        places = PAIRS[relation]
        things = tuple(self.thing(c, p, 60.0) for c, p in zip((first, second), places, strict=True))
        a, b = with_article(self.names[first]), with_article(self.names[second])
        sentence = f"{a} {relation} {b}"
        if relation == "to the left of" and self.rng.random() < 0.5:
            sentence = f"{a} and {b}"
        return Scene(things, style, background), self.join(sentence, words)

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
