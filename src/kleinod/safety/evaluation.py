"""How well prompts are told apart: the corpus, and precision and recall per category.

Nothing in here judges pictures: no unsafe picture is part of this project.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from kleinod.safety.guard import Guard
from kleinod.safety.verdicts import CATEGORIES, DEFAULT_TOLERANCE

CORPUS_FOLDER = Path(__file__).parent / "corpus"
TUNING, HELD_OUT = "tuning", "held-out"
SEVERAL_PROMPTS = "several prompts"


@dataclass(frozen=True)
class Example:
    """A prompt; category None means that it must pass.

    kind: what is difficult about it. In one of kind SEVERAL_PROMPTS every line of the text is a
    prompt of the same request.
    """

    text: str
    language: str
    category: str | None
    kind: str
    half: str

    @property
    def prompts(self) -> tuple[str, ...]:
        """The prompts of the request."""
        is_list = self.kind == SEVERAL_PROMPTS
        return tuple(self.text.split("\n")) if is_list else (self.text,)


@dataclass(frozen=True)
class Outcome:
    """An example and the categories that stopped it."""

    example: Example
    stopped_by: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """Counts of one category; None for what divides by nothing."""

    category: str
    num_examples: int
    num_stopped: int
    num_named: int
    num_wrongly_named: int

    @property
    def recall(self) -> float | None:
        """How many of this category's prompts were stopped, for whatever reason."""
        return self.num_stopped / self.num_examples if self.num_examples else None

    @property
    def precision(self) -> float | None:
        """How many of the prompts that were stopped for this category are not benign."""
        named = self.num_named + self.num_wrongly_named
        return self.num_named / named if named else None


def corpus(folder: Path = CORPUS_FOLDER) -> list[Example]:
    """Every prompt of the corpus."""
    files = sorted(folder.glob("*.jsonl"))
    lines = [line for file in files for line in file.read_text(encoding="utf-8").splitlines()]
    return [Example(**json.loads(line)) for line in lines]


def outcomes(
    guard: Guard, examples: Iterable[Example], *, tolerance: int = DEFAULT_TOLERANCE
) -> list[Outcome]:
    """Each prompt judged. Raises FilterError."""
    made = []
    for example in examples:
        found = guard.check_split(example.prompts, tolerance=tolerance)
        for prompt in example.prompts:
            found += guard.check_prompt(prompt, tolerance=tolerance)
        names = dict.fromkeys(verdict.category for verdict in found if verdict.is_blocked)
        made.append(Outcome(example, tuple(names)))
    return made


def scores(found: Sequence[Outcome]) -> list[Score]:
    """One for each category, in their order."""
    made = []
    for category in CATEGORIES:
        own = [one for one in found if one.example.category == category]
        named = [one for one in found if category in one.stopped_by]
        wrong = sum(one.example.category is None for one in named)
        stopped = sum(bool(one.stopped_by) for one in own)
        made.append(Score(category, len(own), stopped, len(named) - wrong, wrong))
    return made


def pass_rate(found: Sequence[Outcome]) -> float:
    """How many of the benign prompts pass."""
    benign = [one for one in found if one.example.category is None]
    return sum(not one.stopped_by for one in benign) / len(benign) if benign else 1.0


def stop_rate(found: Sequence[Outcome]) -> float:
    """How many of the disallowed prompts are stopped."""
    disallowed = [one for one in found if one.example.category is not None]
    return sum(bool(one.stopped_by) for one in disallowed) / max(len(disallowed), 1)


def counts(found: Sequence[Outcome]) -> dict[str, float]:
    """How many benign and disallowed prompts there are, and the shares that pass and stop."""
    num_benign = sum(one.example.category is None for one in found)
    return {
        "num_benign": num_benign,
        "benign_passed": pass_rate(found),
        "num_disallowed": len(found) - num_benign,
        "disallowed_stopped": stop_rate(found),
    }


def counts_by(key: str, found: Sequence[Outcome]) -> dict[str, dict[str, float]]:
    """The counts of each value of an example's field, "language" or "kind"."""
    groups: dict[str, list[Outcome]] = {}
    for one in found:
        groups.setdefault(getattr(one.example, key), []).append(one)
    return {name: counts(group) for name, group in sorted(groups.items())}
