"""Several prompts of one request as one text: a phrase may begin in one and end in the next.

Each prompt makes pictures of its own, so words of different prompts are no phrase in general;
what is judged is only what stands across the end of a prompt.
"""

import re
from collections.abc import Collection, Sequence
from itertools import pairwise

from kleinod.safety.spelling import plain

# longer prompts are cut: no phrase of the rules is as long
_END_CHARACTERS = 80


def ends(prompt: str) -> str:
    """A prompt's first and last words, the whole of a short one."""
    if len(prompt) <= 2 * _END_CHARACTERS:
        return prompt.strip()
    # a cut word is left out, it could be read as another
    start = prompt[:_END_CHARACTERS].rpartition(" ")[0]
    end = prompt[-_END_CHARACTERS:].partition(" ")[2]
    return f"{start}\n\n...\n\n{end}".strip()


def joined(prompts: Sequence[str], words: Collection[str]) -> tuple[str, ...]:
    """The prompts one after another, as they stand and with halves of the given words made one."""
    fused = [prompts[0]]
    for before, after in pairwise(prompts):
        is_cut = _last(before) + _first(after) in words and _last(before) not in words
        fused += ["" if is_cut else " ", after]
    return tuple(dict.fromkeys((" ".join(prompts), "".join(fused))))


def _first(text: str) -> str:
    found = re.match(r"\w*", plain(text[:_END_CHARACTERS]))
    return found[0] if found else ""


def _last(text: str) -> str:
    return re.split(r"\W", plain(text[-_END_CHARACTERS:]))[-1]
