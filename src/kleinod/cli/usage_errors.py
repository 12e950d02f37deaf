"""Mistakes in a command line in the caller's words: options, not the fields behind them."""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from kleinod.suggestions import hint_for, suggestions

# typer.Context is a subclass of what typer's own methods give, whose name is private
Context = Any
# where an option is shorter than the field that it fills
_OPTIONS = {
    "num_inference_steps": "steps",
    "guidance_scale": "guidance",
    "reference_images": "reference",
}
# other names that a command with this option understands
_ALIASES = {"image": "reference", "reference_image": "reference"}
# "width: …", "width x height: …", "reference_images[2]: …"
_FIELDS = re.compile(r"(\w[\w-]*(?: x \w[\w-]*)*)(\[\d+\])?(?=: )")


def aliases(params: Sequence[Any]) -> Mapping[str, str]:
    """Names that a command understands without showing them, and the option's own, no dashes."""
    own = {option.lstrip("-") for param in params for option in param.opts}
    several = {name.replace("_", "-"): option for name, option in (_OPTIONS | _ALIASES).items()}
    return {name: option for name, option in several.items() if option in own and name not in own}


def in_options(message: str, context: Context) -> str:
    """The message of an InputError with the field at its head named as the option was typed.

    A field that the user did not type (a default, a setting in a file) keeps its name.
    """
    found = _FIELDS.match(message)
    if found is None:
        return message
    typed = _typed_options(context)
    names = [typed.get(name.replace("-", "_")) for name in found[1].split(" x ")]
    if None in names:
        return message
    return f"{' x '.join(map(str, names))}{found[2] or ''}{message[found.end() :]}"


def unknown_option(name: str, context: Context) -> str:
    """What to say of an option that a command does not have."""
    shown = _shown_names(context)
    near = dict.fromkeys(shown[one] for one in suggestions(name, shown))
    if not near:
        remedy = hint_for(name) or f"{_command(context)} --help lists them"
        return f"unknown option '{name}'; {remedy}"
    if any(not one.startswith("-") for one in near):
        words = " ".join(near)
        return f"unknown option '{name}'; {words} is given without one: {_command(context)} {words}"
    return f"unknown option '{name}'; did you mean {' and '.join(near)}?"


def extra_words(context: Context) -> str:
    """What to say of words that a command does not take."""
    words = context.args
    if any(param.name == "prompt" and _is_argument(param) for param in context.command.params):
        prompt = quoted(" ".join([str(context.params.get("prompt") or ""), *words]).strip())
        return f"put the prompt in quotes: {_command(context)} {prompt}"
    listed = ", ".join(map(quoted, words))
    return f"{listed}: one word too many; {_command(context)} --help shows what it takes"


def quoted(text: str) -> str:
    """A word as it is typed in a shell: in double quotes where that is enough."""
    is_plain = not any(letter in text for letter in '"$`\\!')
    return f'"{text}"' if is_plain else shlex.quote(text)


def _command(context: Context) -> str:
    """What calls this command, whatever the program's file is called."""
    words = [str(context.info_name)]
    while context.parent is not None:
        context = context.parent
        words.insert(0, str(context.info_name))
    return " ".join(["kleinod", *words[1:]])


def _typed_options(context: Context) -> dict[str, str]:
    """The options on the command line, by their names and by those of the fields behind them."""
    typed = {}
    for param in context.command.params:
        source = context.get_parameter_source(param.name)
        if not _is_argument(param) and source is not None and source.name == "COMMANDLINE":
            typed[param.name] = _long(param.opts)
    return typed | {field: typed[option] for field, option in _OPTIONS.items() if option in typed}


def _shown_names(context: Context) -> dict[str, str]:
    """Every name that a command's parameter may be meant by, and how it is typed."""
    shown = {}
    for param in context.command.get_params(context):
        if _is_argument(param):
            shown[str(param.name)] = str(param.metavar or param.name.upper())
        elif not param.hidden:
            long = _long(param.opts)
            shown |= {str(param.name): long} | {option: option for option in param.opts}
            shown |= {option: option for option in param.secondary_opts}
    fields = {field: shown[option] for field, option in _OPTIONS.items() if option in shown}
    return shown | fields


def shown_name(param: Any) -> str:  # noqa: ANN401 - typer's parameter
    """How a parameter is called in a message: its long option, or its word in the usage."""
    if _is_argument(param):
        return str(param.metavar or param.name.upper())
    return _long(param.opts)


def _is_argument(param: Any) -> bool:  # noqa: ANN401 - typer's parameter
    return bool(param.param_type_name == "argument")


def _long(options: Sequence[str]) -> str:
    return next((option for option in options if option.startswith("--")), options[0])
