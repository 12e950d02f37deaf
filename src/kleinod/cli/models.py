"""`kleinod models`: the models with a name, and which of them are here."""

import json as jsonlib
from typing import Annotated

import typer

from kleinod import catalog
from kleinod.display import printable


def models(
    *, json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False
) -> None:
    """List the models that have a name, and where they lie."""
    rows = [
        {
            "name": known.name,
            "variant": known.variant,
            "license": known.license,
            "repository": known.repository,
            "path": _path(known),
        }
        for known in catalog.KNOWN.values()
    ]
    if json:
        print(jsonlib.dumps(rows))
        return
    width = max(len(known.name) for known in catalog.KNOWN.values())
    for row in rows:
        place = row["path"] or f"not here ({row['repository'] or 'built in'})"
        print(f"{row['name']:{width}}  {row['variant']:9}  {row['license']:27}  {printable(place)}")


def _path(known: catalog.KnownModel) -> str | None:
    path = catalog.present(known)
    return None if path is None else str(path)
