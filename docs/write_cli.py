"""Writes docs/cli.md from the commands' own help; `make docs` runs it, a test compares."""

from collections.abc import Iterator
from pathlib import Path

import typer
from typer.main import get_command

from kleinod.cli import app

PAGE = Path(__file__).parent / "cli.md"
INTRODUCTION = """\
# The command line

Written by `make docs` from `--help`; do not edit.

Exit status: 0 done, 1 the computation failed (`verify`: something is wrong with the picture,
`audit verify`: with the log; `repeat`: it is different), 2 a mistake in the input,
3 stopped by a safety filter, 130 stopped with Ctrl-C. An error is one line on stderr; then no
picture is half written. `python -m kleinod` is the same command.

An option is also understood in Python's spelling (`--num-inference-steps`, `--guidance-scale`,
`--reference-images`), with dashes or underscores. An unknown command or option is answered with
the nearest one, and an error names the option that was typed.

## Completion

`kleinod --install-completion` lets bash, zsh, fish and PowerShell complete commands, options and
the names of models with Tab, in every new shell. `kleinod --show-completion` prints the script that
it installs, for those who keep such files themselves; for the running shell:

```text
eval "$(kleinod --show-completion)"
```

## Progress

`kleinod generate` and `kleinod repeat` show one line on stderr where that is a terminal, from the
first moment on, and erase it at the end. `--quiet` and `--json` leave it out.
"""


def cli_reference() -> str:
    """The whole page."""
    commands = dict(_with_commands("kleinod", get_command(app)))
    sections = (f"## {name}\n\n```text\n{_help(name, c)}\n```\n" for name, c in commands.items())
    return "\n".join((INTRODUCTION, *sections))


def _with_commands(
    name: str, command: typer.core.TyperCommand
) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """The command itself and, where it is a group, all below it."""
    yield name, command
    for word, below in getattr(command, "commands", {}).items():
        yield from _with_commands(f"{name} {word}", below)


def _help(name: str, command: typer.core.TyperCommand) -> str:
    command.rich_markup_mode = None  # plain text, not a terminal's boxes
    context = typer.Context(command, info_name=name, terminal_width=96, max_content_width=96)
    return command.get_help(context).strip()


if __name__ == "__main__":
    PAGE.write_text(cli_reference(), encoding="utf-8")
