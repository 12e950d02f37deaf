"""Which settings let a blocked request pass, in the words of whoever is told: shell, Python, HTTP.

A category that follows the tolerance names the least that is enough; the others only the switch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from kleinod.safety.verdicts import DENIED, MINORS, Verdict


@dataclass(frozen=True)
class Settings:
    """How a caller spells the settings; off: None where it cannot switch filters off."""

    tolerance: str
    off: str | None


COMMAND = Settings("--safety-tolerance {}", "--safety off")
PYTHON = Settings("safety_tolerance={}", 'safety="off"')


def remedy(verdicts: Sequence[Verdict], settings: Settings) -> str:
    """As in: --safety-tolerance 3 or --safety off change this; empty where nothing does."""
    if any(verdict.category == MINORS for verdict in verdicts):
        return ""  # nobody is told a way around that
    ways = []
    needed = [verdict.passing_tolerance for verdict in verdicts]
    known = [tolerance for tolerance in needed if tolerance is not None]
    if known and len(known) == len(needed):
        ways.append(settings.tolerance.format(max(known)))
    if any(verdict.category == DENIED for verdict in verdicts):
        ways.append("deny_list in safety.toml")
    if settings.off is not None:
        ways.append(settings.off)
    verb = "changes" if len(ways) == 1 else "change"
    return f"{' or '.join(ways)} {verb} this" if ways else ""
