"""The command `kleinod`, and `python -m kleinod`."""

import os
import sys
import threading
from collections.abc import Sequence

from kleinod.progress import is_terminal, start_line

# those that begin with cli.progress.startup_status, whose line takes the place of this one
_SLOW_COMMANDS = ("generate", "repeat")
_QUIET = ("--quiet", "--json", "--help")


def main() -> None:
    """Run the command line."""
    # before its imports, which take a third of a second
    if is_slow(sys.argv[1:]) and is_terminal(sys.stderr):
        start_line.show("starting", sys.stderr)
    from kleinod.cli import main as run

    try:
        run()
    except SystemExit as ended:
        if sys.argv[1:2] and sys.argv[1] in _SLOW_COMMANDS:
            exit_without_teardown(ended.code)
        raise


def exit_without_teardown(status: object) -> None:
    """End the process now if nothing is left to do: no thread at work, all output written.

    To take an interpreter apart that holds PyTorch costs 0.6 s on two cores, after the image is
    written. Returns where the usual end is needed.
    """
    others = [t for t in threading.enumerate() if t is not threading.main_thread()]
    if not isinstance(status, int) or any(not thread.daemon for thread in others):
        return
    if "torch" not in sys.modules:
        return
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):  # whoever reads has gone: Python's own end says so
        return
    os._exit(status)


def is_slow(arguments: Sequence[str]) -> bool:
    """Whether a command line loads a model and may show progress."""
    if not arguments or arguments[0] not in _SLOW_COMMANDS:
        return False
    return not any(
        one in _QUIET or (one[:1] == "-" and one[1:2] != "-" and "q" in one) for one in arguments
    )


if __name__ == "__main__":
    main()
