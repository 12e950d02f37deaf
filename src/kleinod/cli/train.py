"""`kleinod train`: fine-tune a model on a folder of pictures and captions."""

from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A TOML file; docs/training.md names its fields."),
    ],
) -> None:
    """Fine-tune a model on a folder of pictures and captions; goes on where it was stopped."""
    from kleinod.training import distributed, finetune  # late: torch takes a second

    folder = finetune.finetune(finetune.read_recipe(recipe))
    if distributed.start()[0] == 0:
        print(folder)
    distributed.stop()
