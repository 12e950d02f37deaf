"""One request under the guard: what was judged so far, and what its receipt says of that."""

from dataclasses import asdict
from typing import Any

from PIL import Image

from kleinod.errors import ModeratedError
from kleinod.safety.guard import Guard
from kleinod.safety.verdicts import DEFAULT_TOLERANCE, Verdict, check_tolerance


class Screening:
    """The verdicts on one request; without a guard (switched off) it lets everything pass."""

    def __init__(self, guard: Guard | None, *, tolerance: int = DEFAULT_TOLERANCE) -> None:
        check_tolerance(tolerance)
        self.guard, self.tolerance = guard, tolerance
        self.verdicts: list[Verdict] = []

    def check_prompt(self, prompt: str) -> None:
        """Moderate a prompt. Raises ModeratedError, FilterError, InputError."""
        if self.guard is not None:
            verdicts = self.guard.check_prompt(prompt, tolerance=self.tolerance)
            self.verdicts += _passed(verdicts, self.guard)

    def check_reference(self, image: Image.Image) -> None:
        """Moderate a reference picture. Raises ModeratedError, FilterError, InputError."""
        if self.guard is not None:
            verdicts = self.guard.check_reference(image, tolerance=self.tolerance)
            self.verdicts += _passed(verdicts, self.guard)

    def check_result(self, image: Image.Image) -> dict[str, Any]:
        """Judge a painted picture; what its receipt says of safety.

        Raises ModeratedError, FilterError.
        """
        if self.guard is None:
            return {"filters": "off"}
        found = self.guard.check_result(image, tolerance=self.tolerance)
        verdicts = (*self.verdicts, *_passed(found, self.guard))
        return {
            "tolerance": self.tolerance,
            "filters": [
                {"name": one.name, "version": one.version, "moments": list(one.moments)}
                for one in self.guard.filters
            ],
            "verdicts": [asdict(verdict) for verdict in verdicts],
        }


def _passed(found: list[Verdict], guard: Guard) -> list[Verdict]:
    """The guard's verdicts, if none of them stops the request. Raises ModeratedError."""
    blocked = [verdict for verdict in found if verdict.is_blocked]
    if blocked:
        raise ModeratedError(blocked[0].moment, blocked, guard.policy.report_address)
    return found
