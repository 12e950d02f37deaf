"""The words, sizes and tasks that a small model was trained on: `vocabulary.json` in its folder.

    prompt -- words --> longest known phrases are taken out --> the words that are left are unknown

A model without the file is taken to know every word. No torch; knows nothing of requests.
"""

import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from kleinod.errors import WeightsError

FILE_NAME = "vocabulary.json"
# a model's folder may come from anyone
_MAX_FILE_BYTES = 1 << 20
_MAX_ENTRIES = 5000
_MAX_TEXT_CHARACTERS = 120
_MAX_SIDE = 65536
_MAX_REFERENCES = 64
# as difflib measures likeness, from 0 to 1; "strange" and "orange" have 0.77, "dolfin" and
# "dolphin" as well, but people seldom mistake the first letter
_MIN_LIKENESS, _MIN_LIKENESS_OF_OTHERS = 0.75, 0.85
_MIN_HINTED_CHARACTERS = 4
_ASCII_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9'-]*")
_WORD_CATEGORIES = ("L", "M", "N")
_SYMBOL = "So"  # emoji
_APOSTROPHES = "'’"
_JOINERS = frozenset(_APOSTROPHES + "-")
Size = tuple[int, int]


def has_words(text: str) -> bool:
    """Whether a text has a letter, a digit or an emoji."""
    return any(True for _ in _words(text))


@dataclass(frozen=True)
class NamedObject:
    """Something that the model can generate; plural is None where it is not counted."""

    name: str
    plural: str | None = None


@dataclass(frozen=True)
class Vocabulary:
    """What a model was trained on; every text in lower case but for names.

    words: of captions beside the lists here; edit_words: only of edits, which need a reference;
    ignored_words: English function words that no caption has and that change nothing.
    short_names: "apple" -> "red apple"; synonyms: "kitten" -> "cat", hints for `nearest`.
    native_sizes: (width, height) in pixels; empty: any.
    """

    objects: tuple[NamedObject, ...]
    styles: tuple[str, ...] = ()
    backgrounds: tuple[str, ...] = ()
    colors: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    edit_words: tuple[str, ...] = ()
    ignored_words: tuple[str, ...] = ()
    short_names: Mapping[str, str] = field(default_factory=dict)
    synonyms: Mapping[str, str] = field(default_factory=dict)
    phrases: tuple[str, ...] = ()
    edit_phrases: tuple[str, ...] = ()
    joining_phrases: tuple[str, ...] = ()
    examples: tuple[str, ...] = ()
    native_sizes: tuple[Size, ...] = ()
    max_references: int | None = None

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The vocabulary of a model's folder; None where it states none. Raises WeightsError."""
        path = folder / FILE_NAME
        if not path.is_file():
            return None
        return cls(**_checked(path, _json_object(path)))

    def as_json(self) -> dict[str, Any]:
        """Every field, as vocabulary.json holds it."""
        values = asdict(self)
        for name in ("short_names", "synonyms"):
            values[name] = dict(values[name])
        return values

    def file_text(self) -> str:
        """What vocabulary.json holds."""
        return json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n"

    @property
    def object_names(self) -> tuple[str, ...]:
        """The names of the objects, in the file's order."""
        return tuple(one.name for one in self.objects)

    def unknown_words(self, prompt: str, *, is_edit: bool = True) -> tuple[str, ...]:
        """The words of a prompt that the model was not trained on, each once, in order.

        is_edit: there is a reference, so that the words of edits count as known.
        """
        known = self._known_to_edits if is_edit else self._known
        pairs = list(_parts(prompt))
        parts = tuple(part for part, _ in pairs)
        unknown: dict[str, str] = {}
        index = 0
        while index < len(parts):
            length = known.longest(parts, index)
            if length == 0:
                word = pairs[index][1]
                unknown.setdefault(_plain(word), word)
            index += max(1, length)
        return tuple(unknown.values())

    def has_object(self, prompt: str) -> bool:
        """Whether a prompt names an object that the model knows."""
        parts = tuple(part for part, _ in _parts(prompt))
        return any(self._object_phrases.longest(parts, start) for start in range(len(parts)))

    def nearest(self, word: str) -> str | None:
        """The known word that was most likely meant; None where none is close.

        A synonym of the file first, then a name that holds the word, then one spelled like it.
        """
        plain = _plain(word)
        for text in (plain, plain.removesuffix("s")):
            if text in self.synonyms:
                return self.synonyms[text]
        for name in self.object_names:
            if plain in _plain(name).split():
                return name
        if not _MIN_HINTED_CHARACTERS <= len(plain) <= _MAX_TEXT_CHARACTERS:
            return None
        alike = [text for text in self._hints if text[0] == plain[0]]
        close = get_close_matches(plain, alike, n=1, cutoff=_MIN_LIKENESS)
        close += get_close_matches(plain, self._hints, n=1, cutoff=_MIN_LIKENESS_OF_OTHERS)
        return self._hints[close[0]] if close else None

    def extended(self, captions: Iterable[str], sizes: Iterable[Size] = ()) -> Self:
        """With the words of more captions, and sizes, that a model was trained on afterwards."""
        known = set(self.words)
        for caption in captions:
            known.update(map(_plain, self.unknown_words(caption)))
        added = tuple(size for size in dict.fromkeys(sizes) if size not in self.native_sizes)
        sizes = (*self.native_sizes, *added) if self.native_sizes else ()
        return replace(self, words=tuple(sorted(known)), native_sizes=sizes)

    @cached_property
    def _object_phrases(self) -> "_Phrases":
        names = [text for one in self.objects for text in (one.name, one.plural) if text]
        return _Phrases([*names, *self.short_names])

    @cached_property
    def _known(self) -> "_Phrases":
        lists = (self.styles, self.backgrounds, self.colors, self.words, self.ignored_words)
        return self._object_phrases.extended(text for texts in lists for text in texts)

    @cached_property
    def _known_to_edits(self) -> "_Phrases":
        return self._known.extended(self.edit_words)

    @cached_property
    def _hints(self) -> dict[str, str]:
        """What a misspelled word may have meant, by its plain spelling."""
        names = [text for one in self.objects for text in (one.plural, one.name) if text]
        texts = (*self.styles, *self.backgrounds, *self.colors, *self.short_names, *names)
        return {**self.synonyms, **{_plain(text): text for text in texts}}


class _Phrases:
    """Phrases as tuples of plain words, and how long the longest is."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = tuple(texts)
        self._phrases = {tuple(part for part, _ in _parts(text)) for text in self._texts}
        self._max_length = max(map(len, self._phrases), default=0)

    def extended(self, texts: Iterable[str]) -> "_Phrases":
        """These and more."""
        return _Phrases((*self._texts, *texts))

    def longest(self, parts: tuple[str, ...], start: int) -> int:
        """How many parts from `start` on make up the longest phrase; 0: none does."""
        lengths = range(min(self._max_length, len(parts) - start), 0, -1)
        return next((n for n in lengths if parts[start : start + n] in self._phrases), 0)


def _parts(text: str) -> Iterator[tuple[str, str]]:
    """Each plain part of the words of a text, with its word: "t-shirt" has two parts."""
    for word in _words(unicodedata.normalize("NFC", text)):
        for part in word.split("-"):
            if part:
                yield _plain(part), word


def _words(text: str) -> Iterator[str]:
    """Runs of letters, digits, hyphens and apostrophes, and single symbols such as emoji."""
    if text.isascii():  # many times as fast
        yield from (word.rstrip("-'") for word in _ASCII_WORD.findall(text))
        return
    word = ""
    for letter in text + " ":
        category = unicodedata.category(letter)
        if category[0] in _WORD_CATEGORIES or (word and letter in _JOINERS):
            word += letter
            continue
        if word:
            yield word.rstrip("-" + _APOSTROPHES)
        word = ""
        if category == _SYMBOL:
            yield letter


def _plain(word: str) -> str:
    """Without case, compatibility forms and a possessive 's."""
    folded = unicodedata.normalize("NFKC", word).casefold()
    for apostrophe in _APOSTROPHES:
        folded = folded.removesuffix(f"{apostrophe}s")
    return folded


def _json_object(path: Path) -> dict[str, Any]:
    """Raises WeightsError for a file that is too large or holds no JSON object."""
    try:
        size = path.stat().st_size
        if size > _MAX_FILE_BYTES:
            raise WeightsError(
                f"{path}: has {size} bytes, over the limit of {_MAX_FILE_BYTES}; fetch it again"
            )
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read ({error}); fetch the model again") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: holds no JSON object; fetch the model again")
    return values


def _checked(path: Path, values: dict[str, Any]) -> dict[str, Any]:
    """The known fields as `Vocabulary` takes them; others are left. Raises WeightsError."""
    if "objects" not in values:
        raise WeightsError(f"{path}: objects is missing; fetch the model again")
    fields = {name: value for name, value in values.items() if name in Vocabulary.__annotations__}
    return {name: _checked_field(path, name, value) for name, value in fields.items()}


def _checked_field(path: Path, name: str, value: object) -> Any:  # noqa: ANN401 - a field's value
    if name == "max_references":
        if value is None or (type(value) is int and 0 <= value <= _MAX_REFERENCES):
            return value
    elif name in ("short_names", "synonyms"):
        if isinstance(value, dict) and len(value) <= _MAX_ENTRIES:
            if all(map(_is_text, (*value, *value.values()))):
                return {_plain(key): text for key, text in value.items()}
    elif isinstance(value, list) and len(value) <= _MAX_ENTRIES:
        read = {"objects": _object, "native_sizes": _size}.get(name, _text)
        items = [read(item) for item in value]
        if None not in items:
            return tuple(items)
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:59]}…"
    raise WeightsError(
        f"{path}: {name} is {shown}; it must be {_EXPECTED.get(name, _LIST)}; fetch it again"
    )


_LIST = f"a list of at most {_MAX_ENTRIES} texts of 1 to {_MAX_TEXT_CHARACTERS} characters"
_EXPECTED = {
    "objects": f"a list of at most {_MAX_ENTRIES} objects with a name",
    "native_sizes": "a list of [width, height] in pixels",
    "max_references": f"a number from 0 to {_MAX_REFERENCES}",
    "short_names": "an object of texts",
    "synonyms": "an object of texts",
}


def _is_text(value: object) -> bool:
    """A short text that can be printed on a terminal."""
    is_short = isinstance(value, str) and 0 < len(value) <= _MAX_TEXT_CHARACTERS
    return is_short and str(value).isprintable()


def _text(value: object) -> str | None:
    return str(value) if _is_text(value) else None


def _object(value: object) -> NamedObject | None:
    if not isinstance(value, dict) or not _is_text(value.get("name")):
        return None
    plural = value.get("plural")
    return NamedObject(value["name"], plural) if plural is None or _is_text(plural) else None


def _size(value: object) -> Size | None:
    if not isinstance(value, list) or len(value) != 2:
        return None
    width, height = value
    are_sides = all(type(side) is int and 0 < side <= _MAX_SIDE for side in value)
    return (width, height) if are_sides else None
