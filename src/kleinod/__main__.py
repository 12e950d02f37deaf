"""The command `kleinod`, and `python -m kleinod`."""

import sys
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

    run()


def is_slow(arguments: Sequence[str]) -> bool:
    """Whether a command line loads a model and may show progress."""
    if not arguments or arguments[0] not in _SLOW_COMMANDS:
        return False
    return not any(
        one in _QUIET or (one[:1] == "-" and one[1:2] != "-" and "q" in one) for one in arguments
    )


if __name__ == "__main__":
    main()
