"""The guard asks every filter, and fails closed: no answer means that nothing is painted."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Self

from PIL import Image

from kleinod.errors import FilterError, InputError
from kleinod.safety import verdicts
from kleinod.safety.policy import NOTE, Policy
from kleinod.safety.verdicts import DEFAULT_TOLERANCE, Filter, SplitFilter, Verdict

ENTRY_POINTS = "kleinod.filters"
_REMEDY = "nothing is painted; mend it, or switch all filters off with --safety off"


class Guard:
    """The filters of a policy, loaded together at the first check; may be used by many threads."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._filters: list[Filter] | None = None
        self._lock = threading.Lock()

    @classmethod
    def load(cls, policy: Policy) -> Self:
        """A guard of this policy; no filter is read yet."""
        return cls(policy)

    @classmethod
    def where_on(cls, policy: Policy) -> Self | None:
        """The same; None for a policy that switches the filters off."""
        return cls.load(policy) if policy.is_on else None

    @property
    def filters(self) -> list[Filter]:
        """Every filter, loaded now if it was not before. Raises FilterError, InputError."""
        with self._lock:
            if self._filters is None:
                self._filters = _loaded(self.policy)
            return self._filters

    def check_prompt(self, prompt: str, *, tolerance: int = DEFAULT_TOLERANCE) -> list[Verdict]:
        """Verdicts on a prompt. Raises FilterError."""
        from kleinod.safety import codes  # late: start-up is short

        return self._check(verdicts.PROMPT, (prompt, *codes.decoded(prompt)), tolerance)

    def check_split(
        self, prompts: Sequence[str], *, tolerance: int = DEFAULT_TOLERANCE
    ) -> list[Verdict]:
        """Verdicts that block a phrase split over the prompts of one request.

        The prompts are also checked one by one, by `check_prompt`. Raises FilterError.
        """
        verdicts.check_tolerance(tolerance)
        if len(prompts) < 2:
            return []
        found = (
            verdict
            for one in self.filters
            if isinstance(one, SplitFilter)
            for verdict in _verdicts(
                one, verdicts.PROMPT, map(one.split_scores, (prompts,)), tolerance=tolerance
            )
        )
        return [self._noted(verdict) for verdict in found if verdict.is_blocked]

    def check_reference(
        self, image: Image.Image, *, tolerance: int = DEFAULT_TOLERANCE
    ) -> list[Verdict]:
        """Verdicts on a picture that is to be edited. Raises FilterError."""
        return self._check(verdicts.REFERENCE, (image,), tolerance)

    def check_result(
        self, image: Image.Image, *, tolerance: int = DEFAULT_TOLERANCE
    ) -> list[Verdict]:
        """Verdicts on a painted picture. Raises FilterError."""
        return self._check(verdicts.RESULT, (image,), tolerance)

    def _check(
        self, moment: str, subjects: Sequence[str | Image.Image], tolerance: int
    ) -> list[Verdict]:
        verdicts.check_tolerance(tolerance)
        found = (
            verdict
            for one in self.filters
            if moment in one.moments
            for verdict in _verdicts(
                one, moment, map(partial(one.scores, moment), subjects), tolerance=tolerance
            )
        )
        return [self._noted(verdict) for verdict in found]

    def _noted(self, verdict: Verdict) -> Verdict:
        """The verdict as the policy takes it: brands may only be noted."""
        is_noted = verdict.category == verdicts.BRANDS and self.policy.brands == NOTE
        return replace(verdict, is_noted=True) if is_noted and verdict.is_blocked else verdict


def _verdicts(
    one: Filter, moment: str, scorings: Iterable[Mapping[str, float]], *, tolerance: int
) -> Iterator[Verdict]:
    """What stops the request; if nothing does, the verdict that came nearest.

    scorings: the filter's scores of each subject, computed in here.
    """
    try:
        found = [(str(name), float(score)) for scores in scorings for name, score in scores.items()]
    except InputError:  # a prompt that takes too long
        raise
    # a filter may come from anyone; whatever goes wrong in it must close the door
    except Exception as error:
        raise FilterError(_message(one.name, "crashed", error)) from error
    if any(not 0 <= score <= 1 for _, score in found):
        wrong = ValueError("a score is not from 0 to 1")
        raise FilterError(_message(one.name, "crashed", wrong))
    made = [
        Verdict(moment, one.name, one.version, category, round(score, 4), limit)
        for category, score in _highest(found).items()
        for limit in [verdicts.threshold(moment, category, tolerance)]
    ]
    blocked = [verdict for verdict in made if verdict.is_blocked]
    nearest = sorted(made, key=lambda verdict: verdict.score - verdict.threshold)[-1:]
    yield from blocked or nearest


def _highest(found: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The highest score of each category."""
    highest: dict[str, float] = {}
    for category, score in found:
        highest[category] = max(score, highest.get(category, 0.0))
    return highest


def _loaded(policy: Policy) -> list[Filter]:
    filters = []
    for name, maker in _makers(policy):
        try:
            filters.append(_checked(maker()))
        except InputError:  # a deny-list or a judge that the user named wrongly
            raise
        # a broken package can raise anything; see above
        except Exception as error:
            raise FilterError(_message(name, "cannot load", error)) from error
    return filters


def _makers(policy: Policy) -> Iterator[tuple[str, Callable[[], Filter]]]:
    """Name and maker of each filter, the cheap ones first. Imports are late: start-up is short."""
    from kleinod.safety.pictures import Drawings, Photographs
    from kleinod.safety.sentences import Sentences
    from kleinod.safety.words import DenyList, Words

    yield "words", Words
    if policy.deny_list is not None:
        yield "deny-list", partial(DenyList.read, policy.deny_list)
    yield "sentences", Sentences
    yield "opennsfw", Photographs
    yield "drawings", Drawings
    if policy.judge is not None:
        yield "judge", partial(_judge, policy.judge)
    if policy.has_own_filters:
        for point in entry_points(group=ENTRY_POINTS):
            yield point.name, partial(_plugin, point)


def _judge(folder: Path) -> Filter:
    from kleinod.safety.judge import Judge  # late: torch

    return Judge(folder)


def _plugin(point: EntryPoint) -> Filter:
    made: Filter = point.load()()
    return made


def _checked(one: Filter) -> Filter:
    """Raise TypeError for what is no filter."""
    for name, kind in (("name", str), ("version", str), ("moments", tuple)):
        if not isinstance(getattr(one, name, None), kind):
            raise TypeError(f"it has no {name} of type {kind.__name__}")
    if not set(one.moments) <= set(verdicts.MOMENTS):
        raise TypeError(f"its moments are {one.moments}, known are {verdicts.MOMENTS}")
    return one


def _message(name: str, what: str, error: Exception) -> str:
    # the kind only for a crash: its text may hold words of the prompt
    why = type(error).__name__
    if what == "cannot load":
        why = str(error) if isinstance(error, FilterError) else f"{why}: {error}"
    return f"safety filter {name} {what} ({why}); {_REMEDY}"
