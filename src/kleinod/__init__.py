"""kleinod: the FLUX.2 [klein] family on the machine you have.

`kleinod.load("mini")` gives a pipeline. Importing this package costs no torch: names are
looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

from kleinod.openmp import shorten_waits as _shorten_waits
from kleinod.version import __version__ as __version__

if _TYPE_CHECKING:
    from kleinod.catalog import ModelInfo
    from kleinod.diffusion.sampler import Sampler
    from kleinod.errors import (
        EngineClosedError,
        FilterError,
        InputError,
        KleinodError,
        MemoryLimitError,
        ModeratedError,
        NumericalError,
        QueueFullError,
        SigningError,
        WeightsError,
    )
    from kleinod.images import OpenedReference
    from kleinod.provenance.receipt import ProvenanceOptions
    from kleinod.request import Components, ImageRequest, ResolvedRequest
    from kleinod.request_warnings import RequestWarning
    from kleinod.safety.verdicts import Verdict
    from kleinod.session import BlockedImage, GeneratedImage, Result
    from kleinod.session.pipeline import Pipeline, Step, StepStream, load

# before anything imports torch
_shorten_waits()

_HOMES = {
    "BlockedImage": "session",
    "Components": "request",
    "EngineClosedError": "errors",
    "FilterError": "errors",
    "GeneratedImage": "session",
    "ImageRequest": "request",
    "InputError": "errors",
    "KleinodError": "errors",
    "MemoryLimitError": "errors",
    "ModelInfo": "catalog",
    "ModeratedError": "errors",
    "NumericalError": "errors",
    "OpenedReference": "images",
    "Pipeline": "session.pipeline",
    "ProvenanceOptions": "provenance.receipt",
    "QueueFullError": "errors",
    "RequestWarning": "request_warnings",
    "ResolvedRequest": "request",
    "Result": "session",
    "Sampler": "diffusion.sampler",
    "SigningError": "errors",
    "Step": "session.pipeline",
    "StepStream": "session.pipeline",
    "Verdict": "safety.verdicts",
    "WeightsError": "errors",
    "load": "session.pipeline",
}
# names of version 0.1, and what they are now
_RENAMED = {
    "Painter": "kleinod.load(...) gives the pipeline that signs",
    "Request": "kleinod.ImageRequest",
    "Choices": "kleinod.ProvenanceOptions",
}
__all__ = [
    "BlockedImage",
    "Components",
    "EngineClosedError",
    "FilterError",
    "GeneratedImage",
    "ImageRequest",
    "InputError",
    "KleinodError",
    "MemoryLimitError",
    "ModelInfo",
    "ModeratedError",
    "NumericalError",
    "OpenedReference",
    "Pipeline",
    "ProvenanceOptions",
    "QueueFullError",
    "RequestWarning",
    "ResolvedRequest",
    "Result",
    "Sampler",
    "SigningError",
    "Step",
    "StepStream",
    "Verdict",
    "WeightsError",
    "load",
]


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return getattr(_import_module(f"kleinod.{_HOMES[name]}"), name)
    from kleinod.diffusers_names import hint_on_module

    hint = f"it is now: {_RENAMED[name]}" if name in _RENAMED else hint_on_module(name)
    end = f"; {hint}" if hint else ""
    raise AttributeError(f"module 'kleinod' has no attribute {name!r}{end}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
