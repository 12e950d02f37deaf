"""kleinod: the FLUX.2 [klein] family on the machine you have.

`kleinod.load("mini")` gives a pipeline. Importing this package costs no torch: names are
looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kleinod.errors import InputError, KleinodError, NumericalError, WeightsError
    from kleinod.pipeline import Pipeline, load
    from kleinod.request import Request

__version__ = "0.1.0"
__all__ = [
    "InputError",
    "KleinodError",
    "NumericalError",
    "Pipeline",
    "Request",
    "WeightsError",
    "load",
]

_HOMES = {
    "InputError": "errors",
    "KleinodError": "errors",
    "NumericalError": "errors",
    "Pipeline": "pipeline",
    "Request": "request",
    "WeightsError": "errors",
    "load": "pipeline",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute has no one type
    if name not in _HOMES:
        raise AttributeError(f"module 'kleinod' has no attribute {name!r}")
    return getattr(import_module(f"kleinod.{_HOMES[name]}"), name)
