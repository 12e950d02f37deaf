"""Commands that are imported when they are used, and groups that suggest what was meant.

A command understands Python's spelling of its options, too (`--num-inference-steps`), and reports
mistakes in the words of the command line.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from kleinod.cli import usage_errors
from kleinod.errors import InputError
from kleinod.suggestions import unknown_name

# typer.Context is a subclass of what typer's own methods take, whose name is private
Context = Any


class Command(TyperCommand):
    """One command; see the module."""

    def __init__(self, name: str | None, **settings: Any) -> None:  # noqa: ANN401 - typer's
        super().__init__(name, **settings)
        aliases = usage_errors.aliases(self.params)

        def normalize(token: str) -> str:
            plain = token.replace("_", "-")
            return aliases.get(plain, plain)

        for param in self.params:
            _refuse_empty_path(param)
        # of every name of an option, as it is declared and as it is typed
        self.context_settings = {**self.context_settings, "token_normalize_func": normalize}

    def parse_args(self, ctx: Context, args: list[str]) -> list[str]:
        """As typer; words too many are reported with what to do."""
        ctx.allow_extra_args = True
        super().parse_args(ctx, args)
        if ctx.args and not ctx.resilient_parsing:
            ctx.fail(usage_errors.extra_words(ctx))
        return ctx.args

    def invoke(self, ctx: Context) -> Any:  # noqa: ANN401 - what the command gives
        """As typer; an InputError names the option that was typed."""
        try:
            return super().invoke(ctx)
        except InputError as error:
            error.args = (usage_errors.in_options(str(error), ctx), *error.args[1:])
            raise


class Group(TyperGroup):
    """Commands below a word; an unknown one is answered with the nearest."""

    def resolve_command(self, ctx: Context, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """The command that args begin with, and what follows it."""
        command = self.get_command(ctx, args[0])
        if command is None and not ctx.resilient_parsing:
            ctx.fail(self.unknown(ctx, args))
        return args[0] if command else None, command, args[1:]

    def unknown(self, ctx: Context, args: list[str]) -> str:
        """What to say where args begin with no command."""
        return unknown_name(args[0], self.list_commands(ctx), kind="command")

    def list_commands(self, ctx: Context) -> list[str]:
        """Their names; none is imported."""
        return list(self.commands)


class LazyCommands(MutableMapping[str, Any]):
    """Commands by name; each is imported when it is asked for. `places` are module:attribute."""

    def __init__(self, places: Mapping[str, str]) -> None:
        self._places = dict(places)
        self._loaded: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:  # noqa: ANN401 - a command or a group of typer's
        if name not in self._loaded:
            module, attribute = self._places[name].split(":")
            self._loaded[name] = _command(name, getattr(import_module(module), attribute))
        return self._loaded[name]

    def __setitem__(self, name: str, command: Any) -> None:  # noqa: ANN401 - see above
        self._places.setdefault(name, "")
        self._loaded[name] = command

    def __delitem__(self, name: str) -> None:
        del self._places[name]
        self._loaded.pop(name, None)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def _refuse_empty_path(param: Any) -> None:  # noqa: ANN401 - typer's parameter
    """Make a parameter that is a path refuse "", which pathlib would take for this folder."""
    if "Path" not in str(param.type_descriptor.annotation):
        return
    process = param.process_value

    def checked(ctx: Context, value: Any) -> Any:  # noqa: ANN401 - typer's signature
        if value == "" or (isinstance(value, list | tuple) and "" in value):
            name = usage_errors.shown_name(param)
            raise InputError(f"{name}: the path is empty; leave it out, or give a path")
        return process(ctx, value)

    param.process_value = checked


def _command(name: str, found: typer.Typer | Callable[..., None]) -> Any:  # noqa: ANN401
    app = found
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(cls=Command)(found)
    command = get_command(app)
    command.name = name
    return command
