"""`kleinod convert`: a component between the published layouts, or to FP8."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from kleinod.cli.options import QuietButPath
from kleinod.cli.progress_bars import progress_bars


def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A transformer's or autoencoder's file or folder.")
    ],
    destination: Annotated[
        Path, typer.Argument(metavar="OUT", help="A .safetensors file; a folder for diffusers.")
    ],
    *,
    to: Annotated[
        Literal["diffusers", "bfl", "bfl-fp8"],
        typer.Option("--to", help="Layout; bfl-fp8 halves a transformer's blocks."),
    ],
    force: Annotated[bool, typer.Option("--force", help="Overwrite OUT.")] = False,
    quiet: QuietButPath = False,
) -> None:
    """Write a transformer or autoencoder in another published layout."""
    from kleinod.weights import convert as converting  # late: torch takes a second

    with progress_bars(quiet=quiet) as report:
        file = converting.convert(
            source,
            destination,
            target=to,
            force=force,
            progress=lambda fraction: report("converting", fraction),
        )
    print(file)
