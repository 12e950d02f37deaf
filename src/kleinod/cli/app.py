"""The commands, and the edge where an error becomes one line and an exit status.

0 done; 1 the computation failed; 2 the user's mistake; 3 a safety filter said no; 130 Ctrl-C.
A command's module is imported when it runs, so that none waits for what another needs.
"""

import errno
import io
import re
import sys
from typing import Annotated, Any, NoReturn

import typer

import kleinod
from kleinod.cli import usage_errors
from kleinod.cli.commands import Group, LazyCommands
from kleinod.display import printable
from kleinod.errors import InputError, KleinodError, ModeratedError
from kleinod.progress import start_line
from kleinod.suggestions import suggestions

MODERATED, INTERRUPTED = 3, 130
# a name of thousands of letters says no more than its beginning
_LONG_WORD = re.compile(r"(\S{200})\S+")
# in the order of the help
_COMMANDS = {
    "generate": "kleinod.cli.generate:generate",
    "inspect": "kleinod.cli.inspect:inspect",
    "models": "kleinod.cli.models:models",
    "pull": "kleinod.cli.pull:pull",
    "convert": "kleinod.cli.convert:convert",
    "verify": "kleinod.cli.verify:verify",
    "repeat": "kleinod.cli.repeat:repeat",
    "serve": "kleinod.cli.serve:serve",
    "train": "kleinod.cli.train:train",
    "bench": "kleinod.cli.bench:bench",
    "keys": "kleinod.cli.keys:keys",
    "evaluate": "kleinod.cli.evaluate:evaluate",
    "audit": "kleinod.cli.audit:app",
}
# what other programs call a command, by ours
_FOREIGN_COMMANDS = {
    "generate": ("paint", "draw", "create", "make", "edit", "imagine", "run", "txt2img", "img2img"),
    "pull": ("download", "fetch", "install", "get"),
    "models": ("list", "ls", "model"),
    "inspect": ("info", "show", "identify"),
    "serve": ("server", "start", "api", "ui", "web", "webui"),
    "train": ("finetune", "fine-tune", "lora", "dreambooth"),
    "--help": ("help",),
    "--version": ("version",),
}


class _Root(Group):
    """`kleinod`: runs a command so that every error on purpose is one line on stderr."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(**settings)
        self.commands = LazyCommands(_COMMANDS)

    def main(self, *args: Any, **options: Any) -> NoReturn:  # noqa: ANN401 - typer's signature
        """Run and exit with the status."""
        try:
            status = super().main(*args, **options | {"standalone_mode": False})
        except ModeratedError as error:
            status = _failed(_moderated(error), status=MODERATED, kind="moderated")
        except KleinodError as error:
            status = _failed(str(error), status=2 if isinstance(error, InputError) else 1)
        except OSError as error:
            if error.errno == errno.EPIPE:  # whoever reads has gone
                raise
            status = _failed(_os_message(error), status=2)
        except typer.TyperException as error:
            status = _failed(_message(error), status=error.exit_code)
        except typer.Abort:
            status = INTERRUPTED
        finally:
            start_line.clear()
        if status == INTERRUPTED:
            print("stopped", file=sys.stderr)
        sys.exit(status or 0)

    def unknown(self, ctx: typer.Context, args: list[str]) -> str:
        """What to say where args begin with no command: perhaps they are a prompt."""
        word = args[0]
        near = [ours for ours, names in _FOREIGN_COMMANDS.items() if word.lower() in names]
        is_word = not any(letter.isspace() for letter in word)
        near = near or [*suggestions(word, self.list_commands(ctx))] if is_word else []
        if near:
            return f"unknown command '{word}'; did you mean {near[0]}?"
        end = next((at for at, one in enumerate(args) if one.startswith("-")), len(args))
        prompt = usage_errors.quoted(" ".join(args[:end]))
        return f"unknown command '{word}'; to generate an image: kleinod generate {prompt}"


def _message(error: typer.TyperException) -> str:
    name, context = getattr(error, "option_name", None), getattr(error, "ctx", None)
    # typer's own exception for an unknown option is private; only it has possibilities
    if name and context is not None and hasattr(error, "possibilities"):
        return usage_errors.unknown_option(name, context)
    return error.format_message().replace("Value error, ", "")  # pydantic's words


def _moderated(error: ModeratedError) -> str:
    """What blocked it, and the options that change that."""
    from kleinod.safety import remedies  # late: most commands need no filter

    return error.message(remedies.remedy(error.verdicts, remedies.COMMAND))


def _os_message(error: OSError) -> str:
    """What the system refused, where no command has said it in its own words."""
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}; check the path and its permissions"


def _failed(message: str, *, status: int, kind: str = "error") -> int:
    start_line.clear()
    if message:  # empty where typer has shown the help instead
        line = _LONG_WORD.sub(r"\1…", " ".join(message.split()))
        print(f"{kind}:", printable(line, limit=4000), file=sys.stderr)
    return status


app = typer.Typer(
    cls=_Root,
    help="Paint and edit pictures with the FLUX.2 klein models.",
    no_args_is_help=True,
)


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
    """Run `kleinod` with the arguments of this process."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file's name may be no Unicode
    # the name is given, so that completion is asked for in the same words however it was started
    app(prog_name="kleinod")
