"""A progress bar for Python callers, where somebody can see it. No torch in here."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float], None]


@contextmanager
def show_progress(progress: bool | None) -> Iterator[Report]:
    """Give report(stage, fraction from 0 to 1), which moves a bar on stderr.

    None: only where stderr is a terminal.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

    hidden = not (sys.stderr.isatty() if progress is None else progress)
    columns = TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=Console(stderr=True), disable=hidden, transient=True) as bars:
        tasks: dict[str, TaskID] = {}

        def report(stage: str, fraction: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=fraction)

        yield report
