"""`kleinod verify`: what a picture proves, claims and lacks. Needs no model and no torch."""

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from kleinod.display import printable

_TITLES = {
    "proved": "Proved (by a signature that holds):",
    "claimed": "Claimed (by whoever made the file):",
    "missing": "Missing:",
    "wrong": "WRONG:",
}
# a prompt may be as long as a book; --json prints all of it
_MAX_CHARACTERS = 600


def verify(
    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture file.")],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Say where PICTURE comes from: manifest, watermark, receipt. Status 1 if anything is wrong."""
    from kleinod.provenance import verification  # late: numpy, and a library that signs

    summary = verification.summary(verification.evidence(picture))
    if json:
        print(jsonlib.dumps(summary))
    else:
        for name, title in _TITLES.items():
            if summary[name]:
                print("\n".join((title, *(f"  - {_line(text)}" for text in summary[name]))))
    if not summary["intact"]:
        raise typer.Exit(1)


def _line(text: str) -> str:
    """What the file says, on one line; without runs of spaces that would wrap into a new one."""
    return " ".join(printable(text, limit=_MAX_CHARACTERS).split())
