"""What a filter is, what it says, and where the line is drawn.

A filter gives each category a score from 0 to 1; it is stopped where score >= threshold. The
threshold follows the request's tolerance, 0 (strict) to 5 (loose), except for what the law forbids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from PIL import Image

from kleinod.errors import InputError

PROMPT, REFERENCE, RESULT = "prompt", "reference", "result"
MOMENTS = (PROMPT, REFERENCE, RESULT)

SEXUAL = "sexual"
MINORS = "minors"
GORE = "gore"
NONCONSENSUAL = "nonconsensual"
REAL_PERSON = "real_person"
HATE = "hate"
BRANDS = "brands"
CATEGORIES = (SEXUAL, MINORS, GORE, NONCONSENSUAL, REAL_PERSON, HATE, BRANDS)
DENIED = "denied"  # on the user's own list
JUDGED = "judged"  # a language model's yes, which names no category

DEFAULT_TOLERANCE, MAX_TOLERANCE = 2, 5
# one threshold for each tolerance
_WORDS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8)
# picture filters are surer of themselves; the makers' own filter stops at 0.85
_PICTURES = (0.5, 0.65, 0.85, 0.88, 0.92, 0.95)
# forbidden by law in most places, whatever a request says; and what this filter does not know
_FIXED = 0.5

# of these the request's tolerance moves the threshold
TOLERANT = (SEXUAL, GORE, REAL_PERSON, BRANDS)
_WORDING = {
    SEXUAL: "sexual content",
    MINORS: "minors in a sexual context",
    GORE: "gore",
    NONCONSENSUAL: "imagery without consent",
    REAL_PERSON: "a real person's likeness",
    HATE: "hate",
    BRANDS: "a protected brand or character",
    JUDGED: "judged by a language model",
    DENIED: "on this installation's deny-list",
}


class Filter(Protocol):
    """Anything with a name, a version, the moments that it judges, and `scores`."""

    @property
    def name(self) -> str:
        """Short and stable: it stands in receipts."""

    @property
    def version(self) -> str:
        """Another one where the same subject may get another score."""

    @property
    def moments(self) -> tuple[str, ...]:
        """Which of "prompt", "reference" and "result" it judges."""

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """A score from 0 to 1 for each category; the subject is a prompt or an RGB picture."""


@runtime_checkable
class SplitFilter(Filter, Protocol):
    """A filter that also finds phrases that several prompts of a request make together."""

    def split_scores(self, prompts: Sequence[str]) -> Mapping[str, float]:
        """A score from 0 to 1 for each category, of two prompts or more."""


@dataclass(frozen=True)
class Verdict:
    """What one filter says of one subject in one category."""

    moment: str
    filter: str
    version: str
    category: str
    score: float
    threshold: float
    is_noted: bool = False
    """Over the threshold, and let pass: see `Policy.brands`."""

    @property
    def is_blocked(self) -> bool:
        """Whether it stops the request."""
        return self.score >= self.threshold and not self.is_noted

    @property
    def passing_tolerance(self) -> int | None:
        """The least tolerance at which it would stop nothing; None: at none."""
        tolerances = range(MAX_TOLERANCE + 1)
        passing = (t for t in tolerances if self.score < threshold(self.moment, self.category, t))
        return next(passing, None)

    def __str__(self) -> str:
        wording = _WORDING.get(self.category, self.category)
        return f"{wording} (filter {self.filter}, {self.score:.2f} of {self.threshold:.2f})"


def threshold(moment: str, category: str, tolerance: int) -> float:
    """Where a category is stopped. Raises InputError for a tolerance outside 0 to 5."""
    check_tolerance(tolerance)
    if category not in TOLERANT:
        return _FIXED
    return (_WORDS if moment == PROMPT else _PICTURES)[tolerance]


def check_tolerance(tolerance: int) -> None:
    """Raise InputError unless it is a whole number from 0 to 5."""
    is_number = isinstance(tolerance, int) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance <= MAX_TOLERANCE:
        raise InputError(
            f"safety_tolerance: {tolerance!r} is not from 0 to {MAX_TOLERANCE}; give 0 (strict) "
            f"to {MAX_TOLERANCE} (loose)"
        )
