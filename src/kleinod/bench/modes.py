"""The lossy modes that this build offers: each makes of a model folder one in that mode.

A mode changes how the transformer's matrices are stored or multiplied, and nothing else. FP8 goes
through our own converter, GGUF through the gguf package's quantiser.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

from kleinod.bench.plan import Plan
from kleinod.errors import InputError
from kleinod.weights.convert import BFL_FP8, convert, is_block_linear
from kleinod.weights.files import read_tensors
from kleinod.weights.key_maps import TRANSFORMER, to_bfl

EXACT = "exact"


@dataclass(frozen=True)
class Mode:
    """A name, what is lossy, and what makes the model of it and changes the plan."""

    name: str
    what: str
    folder: Callable[[Path, Path], Path]
    changes: dict[str, Any]

    def plan(self, plan: Plan, temporary: Path) -> Plan:
        """The plan in this mode; files that it needs go into a temporary folder."""
        return replace(plan, model=str(self.folder(Path(plan.model), temporary)), **self.changes)


def modes(dtype: str) -> list[Mode]:
    """Every mode beside the exact one in dtype."""
    other = "float32" if dtype == "bfloat16" else "bfloat16"
    return [
        Mode(
            other,
            f"computed in {other} (the difference of rounding alone)",
            _same,
            {"dtype": other},
        ),
        Mode("int8", "products of int8 numbers (--quantize int8)", _same, {"quantize": "int8"}),
        Mode(
            "fp8-products",
            "products of FP8 numbers, scaled by row (--quantize fp8)",
            _same,
            {"quantize": "fp8"},
        ),
        Mode("fp8", "block linears as BFL's FP8, expanded to multiply", _fp8, {}),
        Mode("gguf-q8_0", "block linears as GGUF Q8_0", _q8_0, {}),
        Mode("gguf-q4_0", "block linears as GGUF Q4_0", _q4_0, {}),
    ]


def _same(model: Path, folder: Path) -> Path:
    return model


def _fp8(model: Path, folder: Path) -> Path:
    made = _beside(model, folder / "fp8")
    file = made / "transformer" / "model.safetensors"
    convert(model / "transformer", file, target=BFL_FP8, progress=_silent)
    return made


def _q8_0(model: Path, folder: Path) -> Path:
    return _gguf(model, folder / "q8_0", gguf.GGMLQuantizationType.Q8_0)


def _q4_0(model: Path, folder: Path) -> Path:
    return _gguf(model, folder / "q4_0", gguf.GGMLQuantizationType.Q4_0)


def _silent(fraction: float) -> None:
    """Show no progress."""


def _gguf(model: Path, made: Path, kind: gguf.GGMLQuantizationType) -> Path:
    """Block linears in a block format, the rest in float32, as the published files have it."""
    _beside(model, made)
    writer = gguf.GGUFWriter(made / "transformer" / "model.gguf", "flux")
    block = gguf.GGML_QUANT_SIZES[kind][0]
    for name, parts in to_bfl(_tensors(model / "transformer"), TRANSFORMER).items():
        numbers = torch.cat([part.float() for part in parts]).numpy()
        if is_block_linear(name) and numbers.shape[1] % block == 0:
            writer.add_tensor(name, gguf.quants.quantize(numbers, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, numbers)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


def _tensors(transformer: Path) -> dict[str, Tensor]:
    tensors = read_tensors(transformer)
    narrow = [name for name, tensor in tensors.items() if tensor.dtype.itemsize < 2]
    if narrow:
        raise InputError(
            f"model: {transformer} is quantised already ({narrow[0]}); give the original"
        )
    return tensors


def _beside(model: Path, made: Path) -> Path:
    """A folder of links to everything of a model but its transformer's weights."""
    if not (model / "transformer").is_dir():
        raise InputError(f"model: {model} is no folder in the diffusers layout; give one")
    made.mkdir(parents=True)
    for entry in model.iterdir():
        if entry.name != "transformer":
            (made / entry.name).symlink_to(entry.absolute())
    (made / "transformer").mkdir()
    shutil.copyfile(model / "transformer" / "config.json", made / "transformer" / "config.json")
    return made
