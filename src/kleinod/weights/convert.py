"""A component from one published layout to the other, bit for bit, or its block linears as FP8.

Tensors are mapped and written one after the other, in slices, so that little memory is held. FP8 is
BFL's own layout: for each linear of a block q = w / scale in float8_e4m3fn and `weight_scale` =
max |w| / 448 as a float32 without dimension; w is about q * scale. `input_scale` is left out: it is
the largest activation, which has to be measured; readers without it scale activations as they run.
Source: klein-facts A.3, B.2, C.2.
"""

import json
import math
import shutil
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch
from safetensors.torch import load_file
from torch import Tensor

from kleinod import fileio
from kleinod.errors import InputError, WeightsError
from kleinod.weights import build, geometry, identify, prefixes
from kleinod.weights.diffusers_configs import autoencoder_config, transformer_config
from kleinod.weights.files import weight_files
from kleinod.weights.inspect_model import Part, read_part
from kleinod.weights.key_maps import AUTOENCODER, TRANSFORMER, Parts, to_bfl, to_diffusers
from kleinod.weights.listing import is_visible

DIFFUSERS, BFL, BFL_FP8 = "diffusers", "bfl", "bfl-fp8"
TARGETS = (DIFFUSERS, BFL, BFL_FP8)
WEIGHTS_NAME = "diffusion_pytorch_model.safetensors"
Progress = Callable[[float], None]

_LARGEST_FP8 = 448.0
_SLICE_NUMBERS = 1 << 20
_TABLES = {identify.TRANSFORMER: TRANSFORMER, identify.AUTOENCODER: AUTOENCODER}
_PLAIN = {"BF16", "F16", "F32", "F64", "I64"}
_DTYPES = {
    torch.float64: "F64",
    torch.int64: "I64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
}


@dataclass(frozen=True)
class _Output:
    """A tensor of the new file: parts along the rows, stored as `dtype`, maybe over a scale."""

    name: str
    parts: Parts
    dtype: torch.dtype
    is_scaled: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return geometry.joined_shape(self.parts)

    @property
    def num_bytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass
class _File:
    """Where each output and each scale goes in the file, and its header."""

    outputs: list[_Output]
    metadata: dict[str, str]
    header: bytes = b""
    offsets: dict[str, int] = field(default_factory=dict)
    num_bytes: int = 0

    def __post_init__(self) -> None:
        entries: dict[str, object] = {"__metadata__": self.metadata}
        sizes = [(o.name, _DTYPES[o.dtype], list(o.shape), o.num_bytes) for o in self.outputs]
        sizes += [(_scale_name(o), "F32", [], 4) for o in self.outputs if o.is_scaled]
        # the widest first, as safetensors has it, so that each lies at a multiple of its size
        sizes.sort(key=lambda entry: (-entry[3] // max(1, math.prod(entry[2])), entry[0]))
        for name, dtype, shape, size in sizes:
            self.offsets[name] = self.num_bytes
            end = self.num_bytes + size
            entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [self.num_bytes, end]}
            self.num_bytes = end
        text = json.dumps(entries, separators=(",", ":")).encode()
        self.header = struct.pack("<Q", len(text) + -len(text) % 8) + text + b" " * (-len(text) % 8)


def convert(
    source: Path, destination: Path, *, target: str, force: bool = False, progress: Progress
) -> Path:
    """Write a transformer or autoencoder in another layout; the path of the weights.

    target: "bfl" and "bfl-fp8" write a file, "diffusers" a folder. Raises InputError, WeightsError.
    """
    part = _convertible(source, target)
    if target == DIFFUSERS and destination.name.lower().endswith((".safetensors", ".gguf")):
        raise InputError(
            f"destination: {destination} has a file's name, the diffusers layout is a folder; "
            f"give {destination.with_suffix('')}"
        )
    folder = destination if target == DIFFUSERS else destination.parent
    file = destination / WEIGHTS_NAME if target == DIFFUSERS else destination
    _check_destination(file, source, is_folder=target == DIFFUSERS, force=force)
    tensors = _strictly_read(part)
    table = _TABLES[part.finding.component]
    parts = (to_diffusers if target == DIFFUSERS else to_bfl)(tensors, table)
    planned = _File(_outputs(parts, target), _metadata(part, parts, target))
    config = _config(part, tensors) if target == DIFFUSERS else None
    with _writing(folder, file, planned.num_bytes) as weights:
        _write(planned, weights, progress)
    if config is not None:
        _write_config(folder / "config.json", config)
    return file


def _convertible(source: Path, target: str) -> Part:
    """What the source is, if it can be converted. Raises InputError."""
    if target not in TARGETS:
        raise InputError(f"to: {target} is unknown; give {', '.join(TARGETS)}")
    if (source / "model_index.json").is_file():
        raise InputError(f"source: {source} is a whole model; give its transformer or vae folder")
    part = read_part(source)
    finding = part.finding
    is_ours = finding.family in (identify.KLEIN, identify.FLUX2)
    if finding.component not in _TABLES or not is_ours:
        raise InputError(
            f"source: {source} seems to be {finding.title}; only klein's transformer and "
            "autoencoder are converted"
        )
    if identify.DECODER_ONLY in finding.notes:
        raise InputError(f"source: {source} is a decoder only; give a whole autoencoder")
    others = {stored for group in part.groups for stored in group.formats} - _PLAIN
    if part.container.startswith("gguf") or others:
        stored = ", ".join(sorted(others)) or "GGUF"
        raise InputError(
            f"source: {source} holds {stored}; only 16- and 32-bit weights in safetensors are "
            "converted, take the unquantised file"
        )
    if target == BFL_FP8 and finding.component != identify.TRANSFORMER:
        raise InputError(f"to: {target} is for transformers, {source} is a {finding.title}")
    if {DIFFUSERS: "diffusers", BFL: "BFL"}.get(target) == finding.layout:
        raise InputError(f"source: {source} is in the {finding.layout} layout already")
    return part


def _check_destination(file: Path, source: Path, *, is_folder: bool, force: bool) -> None:
    """Raise InputError if it exists, is the source, or has no right name."""
    if file.suffix != ".safetensors":
        raise InputError(f"destination: {file} must end in .safetensors")
    if file.exists() and not force:
        raise InputError(f"destination: {file} exists; choose another or give --force")
    if file.is_dir():
        raise InputError(f"destination: {file} is a folder; give a file's name")
    inputs = weight_files(source)
    if any(file.exists() and file.samefile(known) for known in inputs):
        raise InputError(f"destination: {file} is the source; choose another")
    if is_folder and file.parent.exists():
        if not file.parent.is_dir():
            raise InputError(f"destination: {file.parent} is a file; give a folder")
        others = [
            p.name for p in file.parent.glob("*.safetensors*") if p != file and is_visible(p.name)
        ]
        if others:
            raise InputError(f"destination: {file.parent} holds {others[0]}; choose another folder")


def _strictly_read(part: Part) -> dict[str, Tensor]:
    """The mapped tensors, without prefix, if they are a whole model. Raises WeightsError."""
    is_transformer = part.finding.component == identify.TRANSFORMER
    (build.open_transformer if is_transformer else build.open_autoencoder)(part.path)
    tensors: dict[str, Tensor] = {}
    for file in weight_files(part.path):
        tensors |= load_file(file)
    own = prefixes.chosen(tensors, part.finding.component)
    return {own[name]: tensor for name, tensor in tensors.items() if name in own}


def _outputs(parts: Mapping[str, Parts], target: str) -> list[_Output]:
    mixed = [name for name, several in parts.items() if len({part.dtype for part in several}) > 1]
    if mixed:
        raise WeightsError(f"tensor {mixed[0]}: its parts are stored in different formats")
    if target != BFL_FP8:
        return [_Output(name, parts[name], parts[name][0].dtype) for name in sorted(parts)]
    return [
        _Output(name, parts[name], torch.float8_e4m3fn, is_scaled=True)
        if is_block_linear(name)
        else _Output(name, parts[name], torch.bfloat16)
        for name in sorted(parts)
    ]


def is_block_linear(name: str) -> bool:
    """Whether BFL's files have this weight in FP8: linears of blocks, no norms, no modulation."""
    return name.startswith(("double_blocks.", "single_blocks.")) and name.endswith(".weight")


def _scale_name(output: _Output) -> str:
    return output.name + "_scale"


def _metadata(part: Part, parts: Mapping[str, Parts], target: str) -> dict[str, str]:
    kept = {name: str(value) for name, value in part.metadata.items() if "." in name}
    metadata = kept | {"format": "pt"}
    if target == BFL_FP8:
        stems = (name.removesuffix(".weight") for name in sorted(parts) if is_block_linear(name))
        layers = {stem: {"format": "float8_e4m3fn"} for stem in stems}
        values = {"format_version": "1.0", "layers": layers}
        metadata["_quantization_metadata"] = json.dumps(values)
    return metadata


def _config(part: Part, tensors: Mapping[str, Tensor]) -> dict[str, object]:
    if part.finding.component == identify.TRANSFORMER:
        return transformer_config(geometry.transformer(to_bfl(tensors, TRANSFORMER), part.path))
    return autoencoder_config(geometry.autoencoder(to_diffusers(tensors, AUTOENCODER), part.path))


@contextmanager
def _writing(folder: Path, file: Path, num_bytes: int) -> Iterator[BinaryIO]:
    """An open file that takes its name when it is whole. Raises InputError."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if free < num_bytes:
            raise InputError(
                f"disk: {folder} has {free / 1e9:.1f} GB free, {num_bytes / 1e9:.1f} are needed"
            )
        with fileio.atomic_path(file) as part, part.open("xb") as weights:
            yield weights
    except OSError as error:
        raise InputError(f"destination: cannot write {file} ({error}); choose another") from error
    finally:
        if is_new and not file.exists():
            with suppress(OSError):
                folder.rmdir()


def _write_config(path: Path, config: dict[str, object]) -> None:
    fileio.write_atomic(path, json.dumps(config, indent=2) + "\n")


def _write(planned: _File, file: BinaryIO, progress: Progress) -> None:
    file.write(planned.header)
    begin, done = len(planned.header), 0
    for output in planned.outputs:
        scale = None
        if output.is_scaled:
            scale = _scale(output)
            file.seek(begin + planned.offsets[_scale_name(output)])
            file.write(struct.pack("<f", scale.item()))
        file.seek(begin + planned.offsets[output.name])
        for numbers in _slices(output.parts):
            file.write(_bytes(_stored(numbers, output.dtype, scale)))
        done += output.num_bytes
        progress(done / planned.num_bytes)


def _scale(output: _Output) -> Tensor:
    """max |w| / 448 in float32; 1 for a weight of zeros. Raises WeightsError."""
    largest = torch.zeros(())
    for numbers in _slices(output.parts):
        largest = torch.maximum(largest, numbers.float().abs().max())
    if not largest.isfinite():
        raise WeightsError(f"tensor {output.name} holds values that are no finite numbers")
    return largest / _LARGEST_FP8 if largest > 0 else torch.ones(())


def _stored(numbers: Tensor, dtype: torch.dtype, scale: Tensor | None) -> Tensor:
    if scale is None:
        return numbers.to(dtype)
    return (numbers.float() / scale).clamp_(-_LARGEST_FP8, _LARGEST_FP8).to(dtype)


def _slices(parts: Parts) -> Iterator[Tensor]:
    """The numbers of parts in order, some million at a time."""
    for part in parts:
        yield from torch.split(part.reshape(-1), _SLICE_NUMBERS)


def _bytes(numbers: Tensor) -> memoryview:
    return numbers.contiguous().view(torch.uint8).numpy().data
