"""The configuration file of `kleinod train`: its fields, their limits, and where its paths lead."""

import difflib
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from kleinod import catalog, fileio
from kleinod.errors import InputError
from kleinod.paths import expand_user
from kleinod.request import MAX_PIXELS, MIN_SIDE_PIXELS
from kleinod.training.flow_stage import FlowRecipe


@dataclass(frozen=True)
class FinetuneRecipe(FlowRecipe):
    """A configuration file's fields; paths are relative to the file.

    `trains` is transformer or all (the text encoder too); `weights` is the dtype that is trained
    in; `run` holds checkpoints and curves, and `output` the finished model. `text_encoder`,
    `autoencoder` and `tokenizer` are for a `model` that is a transformer's single file.
    """

    model: str = "mini"
    text_encoder: str = ""
    autoencoder: str = ""
    tokenizer: str = ""
    data: str = ""
    output: str = ""
    run: str = ""
    trains: str = "transformer"
    weights: str = "float32"
    device: str = ""
    max_pixels: int = 1024 * 1024
    steps: int = 500
    batch: int = 4
    muon_rate: float = 1e-3
    learning_rate: float = 1e-4
    warmup: int = 20
    average: float = 0.99
    report_every: int = 100
    fresh: int = 0


_CHOICES = {"trains": ("transformer", "all"), "weights": ("float32", "bfloat16")}
_HIDDEN = {"shares", "compiled_size", "fresh", "first_examples"}
_REQUIRED = ("data", "output")
_PATHS = ("data", "output", "run", "text_encoder", "autoencoder", "tokenizer")
# from and to, both included; a step, batch or picture count beyond is a slip of the finger
_LIMITS: dict[str, tuple[float, float]] = {
    "steps": (1, 10_000_000),
    "batch": (1, 65_536),
    "accumulation": (1, 65_536),
    "warmup": (1, 10_000_000),
    "report_every": (1, 10_000_000),
    "max_pixels": (MIN_SIDE_PIXELS**2, MAX_PIXELS),
    "muon_rate": (0, math.inf),
    "learning_rate": (0, math.inf),
    "decay_from": (0, 1),
    "average": (0, 0.999999),
    "dropout": (0, 1),
    "spread": (0, 10),
    "shift": (-10, 10),
    "seed": (0, 2**32 - 1),
}


def read_recipe(path: Path) -> FinetuneRecipe:
    """A configuration in TOML. Raises InputError for an unknown or unfit field."""
    path = expand_user(path, "configuration")
    values = fileio.read_toml(path, "configuration")
    known = {f.name: f.default for f in fields(FinetuneRecipe) if f.name not in _HIDDEN}
    for name, value in values.items():
        _check_field(path, name, value, known)
    for name in _REQUIRED:
        if not values.get(name):
            raise InputError(f"{path}: {name} is missing; give a folder")
    if not any(values.get(name, known[name]) for name in ("learning_rate", "muon_rate")):
        raise InputError(f"{path}: learning_rate and muon_rate are 0; give one above, such as 1e-4")
    return FinetuneRecipe(**values | _resolved(path, values))


def _check_field(path: Path, name: str, value: object, known: dict[str, Any]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        raise InputError(f"{path}: {name} is unknown; {hint}")
    wanted = type(known[name])
    fits = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{path}: {name}: {value!r} is not {_KINDS[wanted]}; give one")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InputError(f"{path}: {name}: {value!r}; give {' or '.join(_CHOICES[name])}")
    if isinstance(value, str) and "\0" in value:
        raise InputError(f"{path}: {name}: {value!r} holds a NUL character; remove it")
    if name in _LIMITS and isinstance(value, int | float):
        _check_limits(path, name, value)


_KINDS = {str: "text in quotes", int: "an integer", float: "a number", bool: "true or false"}


def _check_limits(path: Path, name: str, value: float) -> None:
    low, high = _LIMITS[name]
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{path}: {name}: {value} is not finite; give a number")
    if value < low:
        raise InputError(f"{path}: {name}: {value} is under {low}; give more")
    if value > min(high, 1.7e308):
        raise InputError(f"{path}: {name}: {value} is over {high}; give less")


def _resolved(path: Path, values: dict[str, Any]) -> dict[str, str]:
    """Every path, with ~ expanded, relative to the file; `run` beside `output` if not given."""
    paths = {
        name: str(path.parent / expand_user(values[name], f"{path}: {name}"))
        for name in _PATHS
        if values.get(name)
    }
    paths.setdefault("run", paths["output"] + "-run")
    return paths | {"model": _model(path, values.get("model", FinetuneRecipe.model))}


def _model(path: Path, model: str) -> str:
    """A known name as it is, else a path: relative to the file, or to the current folder."""
    if not model:
        raise InputError(f"{path}: model is empty; give a name, such as mini, or a path")
    if model in catalog.KNOWN:
        return model
    expanded = expand_user(model, f"{path}: model")
    beside = path.parent / expanded
    return str(beside if _exists(beside) else expanded)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long
        return False
