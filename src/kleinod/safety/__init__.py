"""Filters for prompts, reference pictures and results. Importing it loads no filter."""

from kleinod.safety.guard import Guard
from kleinod.safety.policy import Policy
from kleinod.safety.screening import Screening
from kleinod.safety.verdicts import Filter, Verdict

__all__ = ["Filter", "Guard", "Policy", "Screening", "Verdict"]
