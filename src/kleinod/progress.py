"""How far a computation is: one line on a terminal's stderr or in a notebook. Knows no torch.

rich draws it on a terminal. In a notebook rich would need ipywidgets and warns where they are
missing; there the line is plain text that is written again in its place, as it is before rich is
imported, which takes a tenth of a second.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, TextIO

from kleinod.display import quoted
from kleinod.errors import InputError

if TYPE_CHECKING:
    from rich.console import Console

Report = Callable[[str, float], None]
_SECONDS_BETWEEN = 0.1


class StatusLine:
    """One line of plain text that is written again in its place, and erased at the end."""

    def __init__(self) -> None:
        self._stream: TextIO | None = None
        self._width = 0

    def show(self, text: str, stream: TextIO) -> None:
        """Write text over what the line said before."""
        stream.write(f"\r{text:<{self._width}}")
        stream.flush()
        self._stream, self._width = stream, len(text)

    def clear(self) -> None:
        """Erase the line, if there is one."""
        if self._stream is not None:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
        self._stream, self._width = None, 0


# what a command shows from its first moment on, until it has a line of its own or ends
start_line = StatusLine()


def check_progress(progress: object) -> None:
    """Raise InputError unless it is True, False or None."""
    if progress is not None and not isinstance(progress, bool):
        raise InputError(
            f"progress: {quoted(progress)} is not a bool; give True, False, or None for where "
            "somebody can see it"
        )


@contextmanager
def progress_line(progress: bool | None = None) -> Iterator[Report]:
    """Give report(stage, fraction from 0 to 1); the line is gone at the end.

    progress: None shows it where somebody sees it, on a terminal or in a notebook; True also where
    stderr is a file or a pipe, as one line per stage; False shows nothing. Raises InputError.
    """
    check_progress(progress)
    with _line(progress) as report:
        yield report


def is_notebook() -> bool:
    """Whether this process is the kernel of a notebook (Jupyter, Colab, VS Code)."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a line can be written again in its place there."""
    is_plain = os.environ.get("TERM") == "dumb"
    return stream is not None and not is_plain and stream.isatty()


def _line(progress: bool | None) -> AbstractContextManager[Report]:
    if progress is False or sys.stderr is None:
        return nullcontext(_silent)
    if is_notebook():
        return _notebook_line()
    if is_terminal(sys.stderr):
        return terminal_line()
    return nullcontext(_stage_lines()) if progress else nullcontext(_silent)


@contextmanager
def terminal_line(console: "Console | None" = None) -> Iterator[Report]:
    """The same on a terminal: a spinner, the stage, a bar and the stage's seconds."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    description = TextColumn("{task.description}")
    columns = SpinnerColumn(), description, BarColumn(bar_width=30), TimeElapsedColumn()
    console = console or Console(stderr=True)
    start_line.clear()
    # what is printed arrives where stdout goes, not above the bar on stderr
    shares_terminal = sys.stdout is not None and sys.stdout.isatty()
    line = Progress(*columns, console=console, transient=True, redirect_stdout=shares_terminal)
    with line as bar:
        current, task = "starting", bar.add_task("starting", total=None)

        def report(stage: str, fraction: float) -> None:
            nonlocal current, task
            if stage != current:
                bar.remove_task(task)
                # a stage of unknown length has a bar that moves to and fro
                current, task = stage, bar.add_task(stage, total=None)
            if fraction:
                bar.update(task, total=1.0, completed=fraction)

        yield report


@contextmanager
def _notebook_line() -> Iterator[Report]:
    line, last = StatusLine(), ("", 0.0)

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        now = time.monotonic()
        if stage != last[0] or now - last[1] >= _SECONDS_BETWEEN:
            line.show(f"{stage} {fraction:.0%}" if fraction else stage, sys.stderr)
            last = stage, now

    try:
        yield report
    finally:
        line.clear()


def _stage_lines() -> Report:
    """A line for each stage when it begins, for a log."""
    last = ""

    def report(stage: str, fraction: float) -> None:
        nonlocal last
        if stage != last:
            print(stage, file=sys.stderr, flush=True)
            last = stage

    return report


def _silent(stage: str, fraction: float) -> None:
    pass
