"""Progress on stderr: a bar for each stage, or one line for a whole command.

Nothing where stderr is no terminal.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kleinod.progress import Report, start_line, terminal_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

__all__ = ["Report", "progress_bars", "startup_status"]


@contextmanager
def progress_bars(*, quiet: bool, console: "Console | None" = None) -> Iterator[Report]:
    """Give report(stage, fraction from 0 to 1); each stage has a bar of its own."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    console = console or Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    hidden = quiet or not console.is_terminal
    tasks: dict[str, TaskID] = {}
    start_line.clear()
    # rich prints stdout above the bars, to stderr: where stdout is a file or a pipe, it is a
    # script's, and what is printed has to arrive there
    shares_terminal = sys.stdout.isatty()
    bars = Progress(*columns, console=console, disable=hidden, redirect_stdout=shares_terminal)
    with bars as progress:

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = progress.add_task(stage, total=1.0)
            progress.update(tasks[stage], completed=fraction)

        yield report


@contextmanager
def startup_status(*, quiet: bool, console: "Console | None" = None) -> Iterator[Report]:
    """Give report(stage, fraction from 0 to 1): one line, erased at the end.

    It says "starting" at once: call it before torch is imported. Stages are starting, loading,
    encoding text, denoising, decoding, finishing; a fraction of 0 says that it is not known.
    """
    from rich.console import Console

    console = console or Console(stderr=True)
    if quiet or not console.is_terminal:
        start_line.clear()
        yield lambda stage, fraction: None
        return
    with terminal_line(console) as report:
        yield report
