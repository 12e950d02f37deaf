"""One request under the guard: what was judged so far, and what its receipt says of that."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from PIL import Image

from kleinod.errors import ModeratedError
from kleinod.safety import remedies
from kleinod.safety.guard import Guard
from kleinod.safety.verdicts import DEFAULT_TOLERANCE, Verdict, check_tolerance


class Screening:
    """The verdicts on one request; without a guard (switched off) it lets everything pass."""

    def __init__(self, guard: Guard | None, *, tolerance: int = DEFAULT_TOLERANCE) -> None:
        check_tolerance(tolerance)
        self.guard, self.tolerance = guard, tolerance
        self.verdicts: list[Verdict] = []
        self._is_strict = False

    def demand_filters(self) -> None:
        """Block what is only noted, for a model whose licence demands filters.

        Raises ModeratedError.
        """
        if self.guard is not None:
            self._is_strict = True
            self.verdicts = self._passed(self.verdicts)

    def check_prompt(self, prompt: str) -> None:
        """Moderate a prompt. Raises ModeratedError, FilterError, InputError."""
        if self.guard is not None:
            verdicts = self.guard.check_prompt(prompt, tolerance=self.tolerance)
            self.verdicts += self._passed(verdicts)

    def check_split(self, prompts: Sequence[str]) -> None:
        """Moderate what the prompts of a request say together. Raises ModeratedError, FilterError.

        Each is moderated by `check_prompt` besides.
        """
        if self.guard is not None:
            verdicts = self.guard.check_split(prompts, tolerance=self.tolerance)
            self.verdicts += self._passed(verdicts)

    def check_reference(self, image: Image.Image) -> None:
        """Moderate a reference picture. Raises ModeratedError, FilterError, InputError."""
        if self.guard is not None:
            verdicts = self.guard.check_reference(image, tolerance=self.tolerance)
            self.verdicts += self._passed(verdicts)

    def check_result(self, image: Image.Image) -> dict[str, Any]:
        """Judge a painted picture; what its receipt says of safety.

        Raises ModeratedError, FilterError.
        """
        if self.guard is None:
            return {"filters": "off"}
        found = self.guard.check_result(image, tolerance=self.tolerance)
        verdicts = (*self.verdicts, *self._passed(found))
        return {
            "tolerance": self.tolerance,
            "filters": [
                {"name": one.name, "version": one.version, "moments": list(one.moments)}
                for one in self.guard.filters
            ],
            "verdicts": [_facts(verdict) for verdict in verdicts],
        }

    def _passed(self, found: list[Verdict]) -> list[Verdict]:
        """The guard's verdicts, if none of them stops the request. Raises ModeratedError."""
        if self._is_strict:
            found = [replace(verdict, is_noted=False) for verdict in found]
        blocked = [verdict for verdict in found if verdict.is_blocked]
        if not blocked:
            return found
        address = self.guard.policy.report_address if self.guard else None
        remedy = remedies.remedy(blocked, remedies.PYTHON)
        raise ModeratedError(blocked[0].moment, blocked, address, remedy=remedy)


def _facts(verdict: Verdict) -> dict[str, Any]:
    """What a receipt says of a verdict; `is_noted` only where it was let pass."""
    facts = asdict(verdict)
    return facts if verdict.is_noted else {n: v for n, v in facts.items() if n != "is_noted"}
