"""Functions that torch.compile calls once while it traces, and whose result a graph keeps.

`torch.compiler.assume_constant_result` is the public decorator for this, but it imports all of
torch._dynamo and sympy where it is applied: 1.3 to 2.3 s of every start on two cores, for the
commands that compile nothing. The decorator only sets one attribute, which the compiler reads when
it traces; tests/test_startup.py compares with the decorator, so that a PyTorch which does
otherwise is noticed.
"""

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def constant_in_graphs(function: Function) -> Function:
    """Mark a function whose result does not change while the process runs; returns it."""
    # setattr: a function type declares no such attribute
    setattr(function, "_dynamo_marked_constant", True)  # noqa: B010
    return function
