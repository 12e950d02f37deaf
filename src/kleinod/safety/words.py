"""Rules by category, read from rules.toml and languages.toml, and a user's own deny-list.

A rule names groups of words that must all be there, anywhere in the prompt; harmless phrases
("naked mole rat") are taken out before. Knows nothing of pictures.
"""

import codecs
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Self

from PIL import Image

from kleinod import fileio
from kleinod.errors import InputError
from kleinod.safety import scripts, seams
from kleinod.safety.budget import Budget
from kleinod.safety.spelling import Speller, plain
from kleinod.safety.verdicts import DENIED, PROMPT

RULES_FILE = Path(__file__).parent / "rules.toml"
# the groups whose words people disguise; in the first ones a slip is seen as well
_SLIPPED = ("nudity", "sex", "suggestive", "children", "wounds", "rape", "hate")
_WATCHED = (*_SLIPPED, "explicit", "slurs")
_NAMES = ("figures", "characters")
VOCABULARY_FILE = Path(__file__).parent / "minilm" / "vocab.txt"


@dataclass(frozen=True)
class Rule:
    """A category's score where every one of `groups` is found and none of `unless`."""

    category: str
    score: float
    groups: tuple[str, ...]
    unless: tuple[str, ...] = ()


class Phrase:
    """A regular expression, compiled only when a piece that it needs is in a text.

    Compiling all of them would cost 0.2 s at start.
    """

    def __init__(self, text: str, language: scripts.Language = scripts.LATIN) -> None:
        self.text, self.literal = text, _literal(text)
        self._language = language

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Whole words only, in languages that part them."""
        return re.compile(self._language.pattern(self.text))

    def is_in(self, reading: str) -> bool:
        """Whether the phrase is in a text of plain words."""
        return self.literal in reading and self.pattern.search(reading) is not None


class Rules:
    """Groups of phrases and the rules over them."""

    def __init__(self, text: str, languages: Mapping[str, Mapping[str, str]] | None = None) -> None:
        values = tomllib.loads(text)
        self.phrases = {
            name: [Phrase(text) for text in _phrases(group)]
            for name, group in values["groups"].items()
        }
        self.rules = [_rule(entry) for entry in values["rules"]]
        # apart from `phrases`: a slip in the words of further languages is not looked for
        self._ascii = {name: list(phrases) for name, phrases in self.phrases.items()}
        self._other: dict[str, list[Phrase]] = {name: [] for name in self.phrases}
        for name, groups in (languages or {}).items():
            language = scripts.LANGUAGES[name]
            own = self._ascii if language.is_latin else self._other
            for group, text in groups.items():
                own[group] += [Phrase(text, language) for text in _phrases(text)]
        # ordinary words, in no common vocabulary, that look like a slip
        self.no_slips = frozenset(values["no_slips"].split())

    @cached_property
    def watched(self) -> frozenset[str]:
        """The single words that disguises are undone for."""
        return self._single_words(_WATCHED)

    @cached_property
    def slipped(self) -> frozenset[str]:
        """Words in which a slip is seen: also those of names."""
        texts = (phrase.text for group in _NAMES for phrase in self.phrases[group])
        names = frozenset(word for text in texts for word in re.findall(r"[a-z]{6,}", text))
        return names | self._single_words(_SLIPPED)

    def _single_words(self, groups: tuple[str, ...]) -> frozenset[str]:
        phrases = [phrase for name in groups for phrase in self.phrases[name]]
        words = [word for phrase in phrases for word in _spelled(phrase.text)]
        return frozenset(word for word in words if len(word) >= 4)

    @cached_property
    def lexicon(self) -> frozenset[str]:
        """Every longer word that stands in a phrase, but for the harmless ones."""
        return frozenset(
            word
            for name, phrases in self.phrases.items()
            if name != "harmless"
            for phrase in phrases
            for word in re.findall(r"[a-z]{4,}", phrase.text)
            if len(word) > 4 or name in _NAMES
        )

    def without_harmless(self, text: str, stand_in: str = "_") -> str:
        """A text of plain words with something else in place of the harmless phrases."""
        for phrase in self._group("harmless", text):
            if phrase.literal in text:
                text = phrase.pattern.sub(stand_in, text)
        return text

    def scores(
        self, reading: str, budget: Budget | None = None, *, parts: Sequence[str] = ()
    ) -> dict[str, float]:
        """The best score of each category that has one.

        parts: texts that the reading joins; then a rule counts only where a group that it needs
        is in none of them. Raises InputError: the budget is spent.
        """
        budget = budget or Budget()
        has = cache(partial(self._has, self.without_harmless(reading), budget))
        readings = [self.without_harmless(part) for part in parts]

        @cache
        def is_new(name: str) -> bool:
            return has(name) and not any(self._has(part, budget, name) for part in readings)

        scores: dict[str, float] = {}
        for rule in self.rules:
            if rule.score <= scores.get(rule.category, 0.0):
                continue
            # "a|b": one of them is enough
            groups = [group.split("|") for group in rule.groups]
            is_met = all(any(map(has, names)) for names in groups)
            if parts and is_met:
                is_met = any(is_new(name) for names in groups for name in names)
            if is_met and not any(map(has, rule.unless)):
                scores[rule.category] = rule.score
        return scores

    def _has(self, reading: str, budget: Budget, name: str) -> bool:
        budget.check()
        return any(phrase.is_in(reading) for phrase in self._group(name, reading))

    def _group(self, name: str, text: str) -> list[Phrase]:
        """The phrases of a group that may be in a text."""
        own = self._ascii[name]
        return own if text.isascii() else own + self._other[name]


@cache
def shipped_rules() -> Rules:
    """Those of rules.toml and languages.toml, read once."""
    return Rules(RULES_FILE.read_text(encoding="utf-8"), scripts.language_groups())


class Words:
    """The rules over every reading of a prompt."""

    name = "words"
    version = "2"
    moments = (PROMPT,)

    def __init__(self) -> None:
        self.rules = shipped_rules()
        known = vocabulary() | self.rules.lexicon | self.rules.no_slips
        self._speller = Speller(known, self.rules.watched, slipped=self.rules.slipped)

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """The best score of each category over the prompt's readings."""
        assert isinstance(subject, str)
        budget = Budget()
        return _best(
            self.rules.scores(reading, budget) for reading in self._readings(subject, budget)
        )

    def split_scores(self, prompts: Sequence[str]) -> Mapping[str, float]:
        """The same of phrases that begin in one prompt of a request and end in another."""
        budget, ends = Budget(), [seams.ends(prompt) for prompt in prompts]
        parts = [reading for end in ends for reading in self._readings(end, budget)]
        return _best(
            self.rules.scores(reading, budget, parts=parts)
            for joined in seams.joined(ends, self.rules.lexicon | self.rules.watched)
            for reading in self._readings(joined, budget)
        )

    def _readings(self, text: str, budget: Budget) -> list[str]:
        """As English words, each with the text as other scripts have it."""
        script = scripts.reading(text)
        readings = self._speller.readings(text, budget)
        if not script:
            return list(readings)
        return [f"{scripts.without_devanagari(reading)}\n{script}" for reading in readings]


class DenyList:
    """A user's own phrases, one a line, `#` for remarks; whole words, however they are spelled."""

    name = "deny-list"
    version = "1"
    moments = (PROMPT,)

    def __init__(self, phrases: list[str]) -> None:
        self._words = {word for phrase in phrases for word in plain(phrase).split()}
        self._speller = Speller(vocabulary(), self._words, slipped=self._words)
        folded = [" ".join(re.findall(r"[^\W_]+", plain(phrase))) for phrase in phrases]
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, folded))})\b")
        in_script = [scripts.phrase_pattern(phrase) for phrase in phrases]
        self._script = re.compile("|".join(filter(None, in_script)) or "(?!)")

    @classmethod
    def read(cls, file: Path) -> Self:
        """A list from its file. Raises InputError."""
        lines = fileio.read_text(file, "deny_list").splitlines()
        phrases = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        if not any(re.search(r"[^\W_]", plain(phrase)) for phrase in phrases):
            raise InputError(f"deny_list: {file} holds no phrase; write one a line")
        return cls([phrase for phrase in phrases if re.search(r"[^\W_]", plain(phrase))])

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """1 if a phrase of the list is in the prompt."""
        assert isinstance(subject, str)
        is_found = any(self._pattern.search(text) for text in self._speller.readings(subject))
        is_found = is_found or self._script.search(scripts.reading(subject)) is not None
        return {DENIED: float(is_found)}

    def split_scores(self, prompts: Sequence[str]) -> Mapping[str, float]:
        """1 if a phrase begins in one prompt of a request and ends in another."""
        ends = [seams.ends(prompt) for prompt in prompts]
        return _best(self.scores(PROMPT, text) for text in seams.joined(ends, self._words))


def _best(found: Iterator[Mapping[str, float]]) -> dict[str, float]:
    """The highest score of each category."""
    best: dict[str, float] = {}
    for scores in found:
        for category, score in scores.items():
            best[category] = max(score, best.get(category, 0.0))
    return best


def _phrases(group: str) -> list[str]:
    """Phrases of a group, one a line or parted by commas; a line that begins with ~ is in rot13."""
    phrases = []
    for line in group.splitlines():
        text = codecs.decode(line[1:], "rot13") if line.startswith("~") else line
        phrases += [phrase.strip() for phrase in text.split(",") if phrase.strip()]
    return phrases


def _literal(pattern: str) -> str:
    """The longest piece that every text of a phrase holds; may be empty."""
    pattern = re.sub(r"\[[^]]*\]\??", "|", pattern)
    while "(" in pattern:
        pattern = re.sub(r"\([^()]*\)\??", "|", pattern)
    return max(re.split(r"\||\\w[*+?]?|.\?", pattern), key=len)


_ONE_WORD = re.compile(r"([a-z0-9]+)(?:\(([a-z0-9|]+)\)(\??)|([a-z0-9])\?)?")


def _spelled(phrase: str) -> list[str]:
    """The words that a phrase without spaces stands for; none for a freer pattern."""
    found = _ONE_WORD.fullmatch(phrase)
    if found is None:
        return []
    stem, endings, optional, letter = found.groups()
    words = [stem + one for one in (endings or letter or "").split("|")]
    return [*words, stem] if optional or letter else words


def _rule(entry: dict[str, Any]) -> Rule:
    unless = tuple(entry.get("unless", ()))
    return Rule(entry["category"], float(entry["score"]), tuple(entry["groups"]), unless)


@cache
def vocabulary() -> frozenset[str]:
    """Whole words of the sentence model's vocabulary: most that people write in English."""
    words = VOCABULARY_FILE.read_text(encoding="utf-8").splitlines()
    return frozenset(word for word in words if len(word) > 2 and word.isalpha())
