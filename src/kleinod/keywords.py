"""Unknown keyword arguments as InputErrors that name the one that was probably meant."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from kleinod.errors import InputError
from kleinod.suggestions import unknown_name

P = ParamSpec("P")
R = TypeVar("R")


def check_keywords(checked: Callable[P, R]) -> Callable[P, R]:
    """Make a function, or a class's constructor, raise InputError for an unknown keyword.

    The signature stays as it is, for type checkers and completion.
    """
    if inspect.isclass(checked):
        # mypy knows no assignment to a class's constructor
        setattr(checked, "__init__", _checked(checked.__init__))  # noqa: B010
        return cast("Callable[P, R]", checked)
    return _checked(checked)


def _checked(function: Callable[..., R]) -> Callable[..., R]:
    parameters = inspect.signature(function).parameters
    known = [key for key in parameters if key != "self"]

    @functools.wraps(function)
    def call(*args: Any, **keywords: Any) -> R:  # noqa: ANN401 - checked by the wrapped function
        for key in keywords:
            if key not in parameters:
                raise InputError(unknown_name(key, known))
        return function(*args, **keywords)

    return call
