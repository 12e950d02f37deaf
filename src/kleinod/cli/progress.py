"""One line on stderr that shows how far each stage is. Nothing where stderr is no terminal."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]


@contextmanager
def progress_bars(*, quiet: bool, console: Console | None = None) -> Iterator[Report]:
    """Give report(stage, fraction from 0 to 1); each stage has a bar of its own."""
    console = console or Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    hidden = quiet or not console.is_terminal
    tasks: dict[str, TaskID] = {}
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
