"""The commands, and the edge where an error becomes one line and an exit status.

0 done; 1 the computation failed; 2 the user's mistake; 3 a safety filter said no; 130 Ctrl-C.
"""

import io
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

import kleinod
from kleinod.cli import audit
from kleinod.cli.bench import bench
from kleinod.cli.convert import convert
from kleinod.cli.evaluate import evaluate
from kleinod.cli.generate import generate
from kleinod.cli.inspect import inspect
from kleinod.cli.keys import keys
from kleinod.cli.models import models
from kleinod.cli.pull import pull
from kleinod.cli.repeat import repeat
from kleinod.cli.serve import serve
from kleinod.cli.train import train
from kleinod.cli.verify import verify
from kleinod.errors import InputError, KleinodError, ModeratedError

MODERATED, INTERRUPTED = 3, 130


class _OneLineErrors(TyperGroup):
    """Runs a command so that every error on purpose is one line on stderr."""

    def main(self, *args: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - typer's signature
        """Run and exit with the status."""
        try:
            status = super().main(*args, **options | {"standalone_mode": False})
        except ModeratedError as error:
            status = _failed(_moderated(error), status=MODERATED, kind="moderated")
        except KleinodError as error:
            status = _failed(str(error), status=2 if isinstance(error, InputError) else 1)
        except typer.TyperException as error:
            message = error.format_message().replace("Value error, ", "")  # pydantic's words
            status = _failed(message, status=error.exit_code)
        except typer.Abort:
            status = INTERRUPTED
        if status == INTERRUPTED:
            print("stopped", file=sys.stderr)
        sys.exit(status or 0)


def _moderated(error: ModeratedError) -> str:
    """What blocked it, and the options that change that."""
    from kleinod.safety import remedies  # late: most commands need no filter

    return error.message(remedies.remedy(error.verdicts, remedies.COMMAND))


def _failed(message: str, *, status: int, kind: str = "error") -> int:
    if message:  # empty where typer has shown the help instead
        print(f"{kind}:", " ".join(message.split()), file=sys.stderr)
    return status


app = typer.Typer(
    cls=_OneLineErrors,
    help="Paint and edit pictures with the FLUX.2 klein models.",
    no_args_is_help=True,
    add_completion=False,
)
app.command()(generate)
app.command()(inspect)
app.command()(models)
app.command()(pull)
app.command()(convert)
app.command()(verify)
app.command()(repeat)
app.command()(serve)
app.add_typer(keys, name="keys")
app.command()(train)
app.add_typer(evaluate, name="evaluate")
app.add_typer(audit.app, name="audit")
app.command()(bench)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"kleinod {kleinod.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """The `kleinod` command."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no Unicode
    app()
