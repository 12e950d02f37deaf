"""Training state on disk: one safetensors file, written whole or not at all, resumed to the bit.

Nested dicts and lists of tensors and plain values; the tensors lie under their path, the rest is
JSON in the file's metadata. No pickle.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kleinod import fileio
from kleinod.errors import InputError, KleinodError
from kleinod.training import sharding

_REFERENCE = "tensor:"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, then rename. Raises KleinodError for the disk."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_taken_apart(state, "", tensors), allow_nan=False)
    with _disk_errors(path), fileio.atomic_path(path, sync=True) as part:
        save_file(tensors, part, {"state": skeleton})


def load(path: Path) -> dict[str, Any] | None:
    """The state, or None when there is none yet. Raises InputError for a damaged file."""
    if not path.is_file():
        return None
    with _damage(path), safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        state: dict[str, Any] = _put_together(json.loads(file.metadata()["state"]), tensors)
    return state


def first_not_finite(state: dict[str, Any]) -> str | None:
    """The name of a tensor in a state that holds NaN or infinity, or None."""
    tensors: dict[str, Tensor] = {}
    _taken_apart(state, "", tensors)
    broken = (name for name, tensor in tensors.items() if not _is_finite(tensor))
    return next((name.strip("/") for name in broken), None)


def read_facts(path: Path) -> dict[str, Any] | None:
    """A state's plain values without its tensors, or None. Raises InputError for a damaged file."""
    if not path.is_file():
        return None
    with _damage(path), safe_open(path, "pt") as file:
        pairs = json.loads(file.metadata()["state"])["dict"]
        plain = [[name, value] for name, value in pairs if not _holds_tensor(value)]
        facts: dict[str, Any] = _put_together({"dict": plain}, {})
    return facts


def remove_partial(folder: Path) -> None:
    """Delete what a killed process was writing into a folder that nobody else writes to now."""
    for file in folder.glob(f"{fileio.PART_PREFIX}*{fileio.PART_SUFFIX}"):
        with suppress(OSError):
            file.unlink()


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append one JSON line to a file. Raises KleinodError."""
    with _disk_errors(path), path.open("a", encoding="utf-8") as file:
        file.write(json_line(record) + "\n")


def json_line(record: dict[str, Any]) -> str:
    """One line of valid JSON, which knows no NaN."""
    return json.dumps(record, allow_nan=False)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise KleinodError(
            f"run: cannot write {path} ({reason}); the last checkpoint is kept, mend the disk and "
            "run it again to resume"
        ) from error


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError, LookupError, TypeError, ValueError) as error:
        raise InputError(
            f"run: {path} is not a whole checkpoint ({error}); delete it to start again"
        ) from error


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())


def _holds_tensor(value: Any) -> bool:  # noqa: ANN401
    return _REFERENCE in json.dumps(value)


def _taken_apart(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
        return _REFERENCE + path
    if isinstance(value, dict):
        # keys of optimiser states are numbers, which JSON would turn into words
        return {"dict": [[k, _taken_apart(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_taken_apart(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]
    return value


def _put_together(value: Any, tensors: dict[str, Tensor]) -> Any:  # noqa: ANN401
    if isinstance(value, str) and value.startswith(_REFERENCE):
        return tensors[value.removeprefix(_REFERENCE)]
    if isinstance(value, dict):
        return {k: _put_together(v, tensors) for k, v in value["dict"]}
    if isinstance(value, list):
        return [_put_together(v, tensors) for v in value]
    return value


class Average:
    """Exponential moving average of a module's float state."""

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: v.detach().clone().float() for n, v in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: torch.nn.Module, step: int) -> None:
        """Follow; early steps count for more, so that the start is forgotten."""
        decay = min(self.decay, (1 + step) / (10 + step))
        for name, value in module.state_dict().items():
            self.values[name].lerp_(value.float(), 1 - decay)

    def load(self, values: dict[str, Tensor]) -> None:
        """Go on from whole tensors."""
        self.values = {n: sharding.spread_like(v, self.values[n]) for n, v in values.items()}
