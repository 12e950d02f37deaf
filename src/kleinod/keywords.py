"""Unknown keyword arguments as InputErrors that name the one that was probably meant."""

import functools
import inspect
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any, ParamSpec, TypeVar, cast

from kleinod.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def check_keywords(checked: Callable[P, R]) -> Callable[P, R]:
    """Make a function, or a class's constructor, raise InputError for an unknown keyword.

    The signature stays as it is, for type checkers and completion.
    """
    if inspect.isclass(checked):
        # mypy knows no assignment to a class's constructor
        setattr(checked, "__init__", _checked(checked.__init__, checked.__name__))  # noqa: B010
        return cast("Callable[P, R]", checked)
    return _checked(checked, checked.__name__)


def _checked(function: Callable[..., R], name: str) -> Callable[..., R]:
    parameters = inspect.signature(function).parameters
    known = [key for key in parameters if key != "self"]

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> R:  # noqa: ANN401 - checked by the wrapped function
        for key in keywords:
            if key not in parameters:
                raise InputError(unknown_keyword(key, known, name))
        return function(*args, **keywords)

    return call


def unknown_keyword(key: str, known: list[str], owner: str) -> str:
    """The message for a keyword that `owner` does not take."""
    close = get_close_matches(key, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known)}"
    return f"{key}: unknown argument of {owner}; {hint}"
