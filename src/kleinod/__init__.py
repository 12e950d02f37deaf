"""kleinod: the FLUX.2 [klein] family on the machine you have.

`kleinod.load("mini")` gives a pipeline. Importing this package costs no torch: names are
looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kleinod.assembly import load
    from kleinod.catalog import ModelInfo
    from kleinod.errors import InputError, KleinodError, NumericalError, WeightsError
    from kleinod.painter import Painter
    from kleinod.pipeline import Pipeline
    from kleinod.request import Components, Request

__version__ = "0.1.0"
__all__ = [
    "Components",
    "InputError",
    "KleinodError",
    "ModelInfo",
    "NumericalError",
    "Painter",
    "Pipeline",
    "Request",
    "WeightsError",
    "load",
]

_HOMES = {
    "Components": "request",
    "InputError": "errors",
    "KleinodError": "errors",
    "ModelInfo": "catalog",
    "NumericalError": "errors",
    "Painter": "painter",
    "Pipeline": "pipeline",
    "Request": "request",
    "WeightsError": "errors",
    "load": "assembly",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module attribute has no one type
    if name not in _HOMES:
        raise AttributeError(f"module 'kleinod' has no attribute {name!r}", name=name)
    return getattr(import_module(f"kleinod.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    """The public names, imported yet or not, without the imports above."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
