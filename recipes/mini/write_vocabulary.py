"""Write the built-in model's vocabulary.json: python recipes/mini/write_vocabulary.py

The words come from the captions that training composes (icons/scenes.py, edits.py), drawn here
without their pictures, and from concepts.txt; wordlist.toml adds what no caption has.
"""

import re
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from kleinod.icons.captions import UNCOUNTED, plural
from kleinod.icons.edits import Editor
from kleinod.icons.held_out_rules import EDITS, JOININGS
from kleinod.icons.icons import STYLES, Icons, read_concepts
from kleinod.icons.layouts import BACKGROUNDS, SIZE, STYLE_PHRASES, TINTS
from kleinod.icons.scenes import Composer, Example
from kleinod.vocabulary import FILE_NAME, NamedObject, Vocabulary

RECIPE = Path(__file__).parent
TARGET = RECIPE.parents[1] / "src" / "kleinod" / "mini" / FILE_NAME
# of the rarest phrase 60 and more; a caption takes 20 microseconds
NUM_CAPTIONS = 12_000
NUM_CAPTIONS_OF_AN_EDIT = 400
MAX_REFERENCES = 2
EXAMPLES = (
    "a fox on a blue background",
    "a castle, flat style",
    "a cat to the left of a car",
    "three foxes, flat style",
    "a green dog, 3D style",
    "a rocket in the top left corner",
    "a bee above a rose on pink",
    "a penguin, 3D render, yellow background",
)


def vocabulary() -> Vocabulary:
    """That of the built-in model."""
    names = tuple(read_concepts(RECIPE / "concepts.txt").values())
    listed = tomllib.loads((RECIPE / "wordlist.toml").read_text(encoding="utf-8"))
    composer, plain = _composer(Composer, names), _composer(_PlainComposer, names)
    scenes = [composer.any()[1] for _ in range(NUM_CAPTIONS)]
    edits = _captions(Editor(composer).example, EDITS)
    joinings = _captions(Editor(composer).joined, JOININGS)
    words = _words(scenes, names)
    edit_words = _words([*edits, *joinings], names) - words
    return Vocabulary(
        objects=tuple(NamedObject(n, None if n in UNCOUNTED else plural(n)) for n in names),
        styles=tuple(dict.fromkeys((*STYLES, *_style_phrases()))),
        backgrounds=tuple(BACKGROUNDS),
        colors=TINTS,
        words=tuple(sorted(words)),
        edit_words=tuple(sorted(edit_words)),
        ignored_words=tuple(sorted(set(listed["ignored"].split()) - words)),
        short_names=_short_names(listed["short_names"]),
        synonyms=_synonyms(listed["synonyms"]),
        phrases=_templates([plain.any()[1] for _ in range(NUM_CAPTIONS)], names),
        edit_phrases=_templates(edits, names),
        joining_phrases=_templates(joinings, names),
        examples=EXAMPLES,
        native_sizes=((SIZE, SIZE),),
        max_references=MAX_REFERENCES,
    )


class _PlainComposer(Composer):
    """Words only what stands where, and nothing of style and background."""

    def look(self) -> tuple[int, str, list[str]]:
        """Cartoon style on white, which no caption says."""
        return 0, "white", []


def _composer(kind: type[Composer], names: tuple[str, ...]) -> Composer:
    """One that words scenes and has no pictures to draw them."""
    none = np.zeros(0, dtype=np.int64)
    return kind(Icons(np.zeros((0, 1, 1, 4), np.uint8), none, none, names), seed=0)


def _captions(draw: Callable[[str], Example], kinds: Iterable[str]) -> list[str]:
    return [draw(kind)[1] for kind in kinds for _ in range(NUM_CAPTIONS_OF_AN_EDIT)]


def _style_phrases() -> list[str]:
    return [text for texts in STYLE_PHRASES.values() for text in texts]


def _one_of(texts: Iterable[str]) -> str:
    """A pattern of whole texts, the longest first."""
    ordered = sorted(texts, key=len, reverse=True)
    return rf"\b(?:{'|'.join(map(re.escape, ordered))})\b"


def _words(captions: Iterable[str], names: tuple[str, ...]) -> set[str]:
    """Words of captions without objects, styles and colours."""
    known = [*names, *map(plural, names), *_style_phrases(), *BACKGROUNDS, *TINTS]
    pattern = re.compile(_one_of(known))
    return {word for text in captions for word in re.findall(r"\w+", pattern.sub(" ", text))}


def _templates(captions: Iterable[str], names: tuple[str, ...]) -> tuple[str, ...]:
    """The captions' forms, each once, with capitals for what changes."""
    things = _one_of([*names, *map(plural, names)])
    slots = (
        (rf"\b(two|three|four) {things}", r"\1 OBJECTS"),
        (", in the", " in the"),
        (rf"(?:\ban? )?{_one_of(names)}", "OBJECT"),
        (rf"(?<=background to ){_one_of(BACKGROUNDS)}", "BACKGROUND"),
        (rf"(?<=background ){_one_of(BACKGROUNDS)}", "BACKGROUND"),
        (rf"{_one_of(BACKGROUNDS)}(?= background)", "BACKGROUND"),
        (_one_of(STYLES), "STYLE"),
        (rf"(?:\ban? )?{_one_of(TINTS)}", "COLOR"),
    )
    forms: dict[str, None] = {}
    for text in captions:
        for pattern, slot in slots:
            text = re.sub(pattern, slot, text)
        forms[text] = None
    return tuple(sorted(forms))


def _short_names(listed: dict[str, str]) -> dict[str, str]:
    """From the short name and its plural to the object."""
    pairs = [(word, name) for name, words in listed.items() for word in words.split()]
    pairs += [(plural(word), name) for word, name in pairs if word not in UNCOUNTED | {"fries"}]
    return dict(sorted(pairs))


def _synonyms(listed: dict[str, str]) -> dict[str, str]:
    """From the word to what it means. Raises ValueError for one that stands twice."""
    pairs = [(word.casefold(), name) for name, words in listed.items() for word in words.split()]
    twice = {word for word, _ in pairs if [other for other, _ in pairs].count(word) > 1}
    if twice:
        raise ValueError(f"wordlist.toml: {', '.join(sorted(twice))} stand twice; keep one")
    return dict(sorted(pairs))


if __name__ == "__main__":
    TARGET.write_text(vocabulary().file_text(), encoding="utf-8")
    print(TARGET)
