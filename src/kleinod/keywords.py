"""Calls with the wrong arguments as InputErrors that say what to write instead.

An unknown keyword is answered with the one that was probably meant; an argument that is missing, or
given without its name or twice, is named. An InputError from within is raised without its causes:
its one line says all that a user needs.
"""

import functools
import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, cast

from kleinod.display import quoted
from kleinod.errors import InputError
from kleinod.suggestions import unknown_name

P = ParamSpec("P")
R = TypeVar("R")
_MAX_LISTED = 4


def check_keywords(checked: Callable[P, R]) -> Callable[P, R]:
    """Make a function, or a class's constructor, raise InputError for arguments that do not fit.

    The signature stays as it is, for type checkers and completion.
    """
    if inspect.isclass(checked):
        # mypy knows no assignment to a class's constructor
        setattr(checked, "__init__", _checked(checked.__init__, checked.__name__))  # noqa: B010
        return cast("Callable[P, R]", checked)
    return _checked(checked, checked.__name__)


def _checked(function: Callable[..., R], name: str) -> Callable[..., R]:
    parameters = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> R:  # noqa: ANN401 - checked by the wrapped function
        _check_call(name, parameters, args, keywords)
        try:
            return function(*args, **keywords)
        except InputError as error:
            raise error from None

    return call


def _check_call(
    name: str,
    parameters: Mapping[str, inspect.Parameter],
    args: Sequence[object],
    keywords: Mapping[str, object],
) -> None:
    known = [key for key in parameters if key != "self"]
    for key in keywords:
        if key not in known:
            raise InputError(unknown_name(key, known, function=name))
    by_place = [key for key, one in parameters.items() if one.kind is not one.KEYWORD_ONLY]
    if len(args) > len(by_place):
        raise InputError(_needs_name(name, args[len(by_place)], known, by_place))
    given = by_place[: len(args)]
    for key in given:
        if key in keywords:
            raise InputError(f"{key}: {quoted(keywords[key])} is a second value; give one")
    for key, one in parameters.items():
        if one.default is one.empty and key not in given and key not in keywords:
            raise InputError(f"{key}: nothing is given; call {name}({key}=…)")


def _needs_name(name: str, value: object, known: list[str], by_place: list[str]) -> str:
    """The message for an argument that is not given by its name."""
    named = [f"{key}=…" for key in known if key not in by_place]
    listed = ", ".join(named[:_MAX_LISTED]) + (", …" if len(named) > _MAX_LISTED else "")
    remedy = f"give it by name ({listed})" if named else "leave it out"
    return f"{name}: {quoted(value)} is one argument too many; {remedy}"
