"""Progress from Python: where it is shown, and that it is gone at the end."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from kleinod.cli.progress_bars import startup_status
from kleinod.progress import StatusLine, is_notebook, progress_line, start_line, terminal_line

STAGES = ("starting", "loading", "encoding text", "denoising", "decoding", "finishing")


class _Stream(io.StringIO):
    def __init__(self, *, is_terminal: bool) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel in place of the terminal's shell."""
    shell = SimpleNamespace(kernel=object())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def _written(progress: bool | None, *, is_terminal: bool) -> str:
    """What goes to stderr while every stage is reported."""
    stream = _Stream(is_terminal=is_terminal)
    # in here: pytest puts its own stderr in place of a fixture's
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TERM", "xterm")
        patch.setattr(sys, "stderr", stream)
        with progress_line(progress) as report:
            for stage in STAGES:
                report(stage, 0.0)
                report(stage, 0.5)
                report(stage, 1.0)
    return stream.getvalue()


@pytest.mark.parametrize("progress", [None, True])
def test_terminal_shows_a_line_that_is_erased(progress: bool | None) -> None:
    screen = _written(progress, is_terminal=True)
    assert "starting" in screen and "finishing" in screen
    assert screen.endswith("\x1b[2K")


@pytest.mark.parametrize("progress", [None, False])
def test_pipe_shows_nothing(progress: bool | None) -> None:
    assert _written(progress, is_terminal=False) == ""


def test_false_shows_nothing_on_a_terminal() -> None:
    assert _written(False, is_terminal=True) == ""


def test_true_writes_a_line_per_stage_into_a_pipe() -> None:
    assert _written(True, is_terminal=False).splitlines() == list(STAGES)


@pytest.mark.usefixtures("notebook")
@pytest.mark.parametrize("progress", [None, True])
def test_notebook_shows_a_line_that_is_erased(progress: bool | None) -> None:
    assert is_notebook()
    written = _written(progress, is_terminal=False).split("\r")
    assert [part.rstrip() for part in written if part.strip()] == list(STAGES)
    assert written[-1] == "" and not written[-2].strip()
    assert len(written[-2]) >= len(written[-3].rstrip())


@pytest.mark.usefixtures("notebook")
def test_notebook_line_is_erased_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Stream(is_terminal=False)
    monkeypatch.setattr(sys, "stderr", stream)
    with pytest.raises(KeyboardInterrupt), progress_line() as report:
        report("denoising", 0.5)
        raise KeyboardInterrupt
    assert stream.getvalue() == "\rdenoising 50%\r             \r"


def test_shell_without_a_kernel_is_no_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in (None, SimpleNamespace()):
        monkeypatch.setitem(
            sys.modules, "IPython", SimpleNamespace(get_ipython=lambda shell=shell: shell)
        )
        assert not is_notebook()


def test_process_without_stderr_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    with progress_line(True) as report:
        report("denoising", 0.5)


def test_status_line_covers_what_it_said_before() -> None:
    line, stream = StatusLine(), io.StringIO()
    line.clear()
    line.show("denoising", stream)
    line.show("done", stream)
    line.clear()
    line.clear()
    assert stream.getvalue() == "\rdenoising\rdone     \r    \r"


def test_command_begins_with_starting_in_place_of_the_first_line() -> None:
    screen = io.StringIO()
    start_line.show("starting", screen)
    with startup_status(quiet=False, console=Console(file=screen, force_terminal=True)) as report:
        assert "starting" in screen.getvalue().rpartition("\r")[2]
        report("denoising", 0.25)
        report("finishing", 1.0)
    assert screen.getvalue().startswith("\rstarting\r        \r")
    assert "finishing" in screen.getvalue()


@pytest.mark.parametrize(("quiet", "is_terminal"), [(True, True), (False, False)])
def test_command_shows_nothing_where_nobody_looks(quiet: bool, is_terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal)
    with startup_status(quiet=quiet, console=console) as report:
        report("denoising", 0.5)
    assert screen.getvalue() == ""


def test_stage_of_unknown_length_has_a_moving_bar_again() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80)
    with terminal_line(console) as report:
        report("loading", 1.0)
        report("encoding text", 0.0)
    assert screen.getvalue().count("encoding text") >= 1
