"""Training state on disk: one safetensors file, written whole or not at all, resumed to the bit.

Nested dicts and lists of tensors and plain values; the tensors lie under their path, the rest is
JSON in the file's metadata. No pickle.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from kleinod.training import sharding

_REFERENCE = "tensor:"


def save(path: Path, state: dict[str, Any]) -> None:
    """Write beside the target, then rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_taken_apart(state, "", tensors))
    partial = path.with_suffix(".partial")
    save_file(tensors, partial, {"state": skeleton})
    os.replace(partial, path)


def load(path: Path) -> dict[str, Any] | None:
    """The state, or None when there is none yet."""
    if not path.is_file():
        return None
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
        state: dict[str, Any] = _put_together(json.loads(file.metadata()["state"]), tensors)
    return state


def log_progress(path: Path, step: int, loss: float, rate: float) -> None:
    """Print one JSON line and append it to a file; rate in samples per second."""
    line = {"step": step, "loss": round(loss, 4), "samples_per_second": round(rate, 1)}
    print(json.dumps(line), flush=True)
    with path.open("a") as file:
        file.write(json.dumps(line) + "\n")


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
