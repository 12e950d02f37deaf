"""`kleinod train`: fine-tune a model on a folder of pictures and captions."""

from pathlib import Path
from typing import Annotated

import typer

from kleinod.cli.progress import progress_bars


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A TOML file; docs/training.md names its fields."),
    ],
) -> None:
    """Fine-tune a model on a folder of pictures and captions; goes on where it was stopped."""
    from kleinod.training import distributed, finetune  # late: torch takes a second

    read = finetune.read_recipe(recipe)
    with progress_bars(quiet=False) as progress:
        folder = finetune.finetune(read, progress=progress)
    if distributed.start()[0] == 0:
        print(folder)
    distributed.stop()
