"""Editing examples: reference scenes, an instruction, and the scene that obeys it."""

from dataclasses import dataclass, replace

from kleinod.icons.captions import with_article
from kleinod.icons.held_out_rules import EDITS, edit_is_held_out, joining_is_held_out
from kleinod.icons.icons import STYLES
from kleinod.icons.layouts import BACKGROUNDS, CORNERS, PAIRS, TINTS
from kleinod.icons.scenes import Composer, Example, Scene, Thing

HARDER = ("background", "style", "style", "replace", "add", "remove", "recolour")


@dataclass
class Editor:
    """Makes examples with one reference or two from a composer's scenes."""

    composer: Composer
    harder: tuple[str, ...] = HARDER
    """Of EDITS, which to draw more often."""

    def one(self) -> Example:
        """One reference and one change."""
        while True:
            kind = self.composer.choice([*EDITS, *self.harder])
            (before,), words, after = self.example(kind)
            if not edit_is_held_out(kind, *subject_and_detail(kind, before, after)):
                return (before,), words, after

    def example(self, kind: str) -> Example:
        """An example of one of EDITS, held out or not."""
        kinds = {
            "background": self._background,
            "style": self._style,
            "replace": self._replace,
            "mirror": self._mirror,
            "add": self._add,
            "remove": self._remove,
            "size": self._size,
            "move": self._move,
            "recolour": self._recolour,
        }
        return kinds[kind]()

    def two(self) -> Example:
        """Two references and how they are joined."""
        while True:
            kind = self.composer.choice(("beside", "background", "style", "style"))
            (first, second), words, after = self.joined(kind)
            numbers = first.things[0].concept, second.things[0].concept
            if not joining_is_held_out(kind, *numbers):
                return (first, second), words, after

    def joined(self, kind: str) -> Example:
        """An example of one of JOININGS, held out or not."""
        first, second = self._plain(), self._plain()
        if kind == "style":
            style = self._other(list(STYLES), STYLES[first.style])
            second = replace(second, style=STYLES.index(style))
            name = self.composer.names[first.things[0].concept]
            words = self.composer.choice(("first", name)) + " in the style of the second"
            return (first, second), "the " + words, replace(first, style=second.style)
        second = replace(second, style=first.style)
        if kind == "background":
            ground = self._other(list(BACKGROUNDS), first.background)
            second = replace(second, background=ground)
            words = "the first on the background of the second"
            return (first, second), words, replace(first, background=ground)
        left, right = PAIRS["to the left of"]
        things = (
            replace(first.things[0], centre=left, side=60.0),
            replace(second.things[0], centre=right, side=60.0),
        )
        words = self.composer.choice(("both side by side", "the first beside the second"))
        return (first, second), words, replace(first, things=things)

    def _plain(self) -> Scene:
        rng = self.composer.rng
        (concept,) = self.composer.concepts(1)
        thing = self.composer.thing(concept, (64, 64), 104.0)
        background = self.composer.choice(list(BACKGROUNDS))
        return Scene((thing,), int(rng.integers(len(STYLES))), background)

    def _pair(self) -> tuple[Scene, str]:
        scene = self._plain()
        first, second, relation = self.composer.two()
        places = PAIRS[relation]
        things = tuple(Thing(c, p, 60.0) for c, p in zip((first, second), places, strict=True))
        return replace(scene, things=things), relation

    def _other(self, words: list[str], than: str) -> str:
        return self.composer.choice([word for word in words if word != than])

    def _background(self) -> Example:
        scene = self._plain() if self.composer.rng.random() < 0.8 else self._pair()[0]
        background = self._other(list(BACKGROUNDS), scene.background)
        words = self.composer.choice(
            ("change the background to {}", "make the background {}", "{} background")
        )
        return (scene,), words.format(background), replace(scene, background=background)

    def _style(self) -> Example:
        scene = self._plain()
        style = self._other(list(STYLES), STYLES[scene.style])
        name = self.composer.names[scene.things[0].concept]
        words = self.composer.choice(
            ("in {} style", "make it {}", "turn it into {} style", "the {1} in {0} style")
        )
        return (scene,), words.format(style, name), replace(scene, style=STYLES.index(style))

    def _recolour(self) -> Example:
        scene = self._plain()
        thing, tint = scene.things[0], self.composer.choice(TINTS)
        words = self.composer.choice(("make the {0} {1}", "turn the {0} {1}", "a {1} {0}"))
        done = replace(scene, things=(replace(thing, tint=tint),))
        return (scene,), words.format(self.composer.names[thing.concept], tint), done

    def _replace(self) -> Example:
        scene = self._plain()
        old = scene.things[0]
        new = next(c for c in self.composer.concepts(2) if c != old.concept)
        names = self.composer.names
        words = self.composer.choice(("replace the {0} with {1}", "turn the {0} into {1}"))
        done = replace(scene, things=(replace(old, concept=new),))
        return (scene,), words.format(names[old.concept], with_article(names[new])), done

    def _mirror(self) -> Example:
        scene = self._plain()
        thing = scene.things[0]
        x, y = thing.centre
        flipped = replace(thing, mirrored=True, centre=(128 - x, y))
        words = self.composer.choice(("mirror it", "flip it horizontally", "mirror the picture"))
        return (scene,), words, replace(scene, things=(flipped,))

    def _add(self) -> Example:
        both, relation = self._pair()
        first, second = (self.composer.names[t.concept] for t in both.things)
        words = f"add {with_article(first)} {relation} the {second}"
        return (replace(both, things=both.things[1:]),), words, both

    def _remove(self) -> Example:
        both, _ = self._pair()
        words = f"remove the {self.composer.names[both.things[0].concept]}"
        return (both,), words, replace(both, things=both.things[1:])

    def _size(self) -> Example:
        scene = self._plain()
        thing = scene.things[0]
        small = replace(scene, things=(replace(thing, side=thing.side * 0.62),))
        if self.composer.rng.random() < 0.5:
            return (scene,), self.composer.choice(("make it smaller", "smaller")), small
        return (small,), self.composer.choice(("make it larger", "enlarge it")), scene

    def _move(self) -> Example:
        scene = self._plain()
        start = self.composer.choice(list(CORNERS))
        end = self._other(list(CORNERS), start)
        thing = replace(scene.things[0], side=66.0, centre=CORNERS[start])
        moved = replace(thing, centre=CORNERS[end])
        words = f"move it to the {end}"
        return (replace(scene, things=(thing,)),), words, replace(scene, things=(moved,))


def subject_and_detail(kind: str, before: Scene, after: Scene) -> tuple[int, int]:
    """The numbers by which an edit is held out: see heldout.edit_is_held_out."""
    first, done = before.things[0], after.things[0]
    grounds = list(BACKGROUNDS)
    details = {
        "background": lambda: (first.concept, grounds.index(after.background)),
        "style": lambda: (first.concept, after.style),
        "replace": lambda: (first.concept, done.concept),
        "mirror": lambda: (first.concept, grounds.index(before.background)),
        "add": lambda: (done.concept, after.things[1].concept),
        "remove": lambda: (first.concept, before.things[1].concept),
        "size": lambda: (first.concept, grounds.index(before.background)),
        "move": lambda: (first.concept, list(CORNERS.values()).index(done.centre)),
        "recolour": lambda: (first.concept, TINTS.index(done.tint or "")),
    }
    return details[kind]()
