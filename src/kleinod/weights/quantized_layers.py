"""The tensors of a safetensors file made weights: a layer's codes and scales become one matrix.

Which format a layer has is read from its own tensors (dtype and scales), layer by layer; a marker,
where there is one, only has to agree. Knows nothing about models. Source: klein-facts B.2 – B.6.
"""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kleinod.errors import WeightsError
from kleinod.quantization.float8 import FLOAT8, BlockFloat8Weight, Float8Weight, block_grid
from kleinod.quantization.nvfloat4 import NVFloat4Scales, NVFloat4Weight, scale_grid
from kleinod.quantization.stored import Weight

# the second names are ComfyUI's older ones
_PIECES = {
    "weight_scale": "weight_scale",
    "scale_weight": "weight_scale",
    "weight_scale_2": "weight_scale_2",
    "weight_scale_inv": "weight_scale_inv",
    "pre_quant_scale": "pre_quant_scale",
    "input_scale": "input_scale",
    "scale_input": "input_scale",
    "comfy_quant": "comfy_quant",
}
_FORMATS = {
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
    "nvfp4": torch.uint8,
}
_OLD_MARKER = "scaled_fp8"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Layer:
    """A layer's name, its weight, and what else the file holds of it."""

    name: str
    weight: Tensor
    pieces: dict[str, Tensor]
    path: Path

    def error(self, problem: str) -> WeightsError:
        """One line that names the file and the layer."""
        return WeightsError(f"{self.path}: layer {self.name}: {problem}")

    def scale(self, name: str, shapes: tuple[tuple[int, ...], ...]) -> Tensor:
        """A finite scale of one of some shapes. Raises WeightsError."""
        scale = self.pieces.get(name)
        if scale is None:
            raise self.error(f"its {name} is missing; fetch the file again")
        # a single number may have any number of dimensions
        shape = tuple(scale.shape) if scale.numel() != 1 else ()
        if shape not in shapes:
            raise self.error(f"{name} has shape {list(scale.shape)}, not {list(shapes[0])}")
        if scale.dtype in FLOAT8 or not scale.is_floating_point():
            raise self.error(f"{name} is stored as {scale.dtype}; only float scales are read")
        if not torch.isfinite(scale).all():
            raise self.error(f"{name} is not finite; fetch the file again")
        return scale


def assembled(
    tensors: Mapping[str, Tensor], formats: Mapping[str, str], path: Path
) -> dict[str, Weight]:
    """Weights by name; formats: what the file's header says of its layers. Raises WeightsError."""
    layers, weights = _layers(tensors, path)
    for layer in layers:
        _check_marker(layer, formats.get(layer.name))
        weights[layer.name + ".weight"] = _weight(layer)
    _check_scales([layer for layer in layers if _is_float8_matrix(layer)], path)
    # norms and the like, cast with the rest: bfloat16 holds every float8 number
    return {
        name: weight.bfloat16() if isinstance(weight, Tensor) and weight.dtype in FLOAT8 else weight
        for name, weight in weights.items()
    }


def header_formats(metadata: Mapping[str, str] | None, path: Path) -> dict[str, str]:
    """The formats that a header's `_quantization_metadata` names, by layer. Raises WeightsError."""
    text = (metadata or {}).get("_quantization_metadata")
    if text is None:
        return {}
    layers = _json(text, path).get("layers", {})
    if not isinstance(layers, dict):
        raise WeightsError(f"{path}: its quantization metadata lists no layers; fetch it again")
    facts = {name: fact for name, fact in layers.items() if isinstance(fact, dict)}
    return {name: str(fact["format"]) for name, fact in facts.items() if "format" in fact}


def _layers(tensors: Mapping[str, Tensor], path: Path) -> tuple[list[_Layer], dict[str, Weight]]:
    """The matrices with their pieces, and every other tensor by name."""
    pieces: dict[str, dict[str, Tensor]] = {}
    others: dict[str, Weight] = {}
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf in _PIECES and f"{stem}.weight" in tensors:
            pieces.setdefault(stem, {})[_PIECES[leaf]] = tensor
        elif leaf != _OLD_MARKER:
            others[name] = tensor
    layers = []
    for name in [name for name in others if name.endswith(".weight")]:
        stem = name.removesuffix(".weight")
        if tensors[name].dim() == 2 or stem in pieces:
            del others[name]
            layers.append(_Layer(stem, tensors[name], pieces.get(stem, {}), path))
    return layers, others


def _weight(layer: _Layer) -> Weight:
    dtype = layer.weight.dtype
    if dtype in FLOAT8:
        return _float8(layer)
    if dtype == torch.uint8:
        return _nvfloat4(layer)
    if not dtype.is_floating_point:
        raise layer.error(f"is stored as {dtype}, a format that is not read; take another file")
    scale = layer.pieces.get("weight_scale")
    if scale is not None and not (scale == 1).all():
        raise layer.error(f"is stored as {dtype} and has a weight_scale; fetch the file again")
    return layer.weight


def _float8(layer: _Layer) -> Weight:
    codes = layer.weight
    if codes.dim() != 2:
        scale = layer.scale("weight_scale", ((),)) if "weight_scale" in layer.pieces else 1
        return codes.float() * scale
    if "weight_scale_inv" in layer.pieces:
        grid = block_grid(codes.shape)
        if layer.pieces["weight_scale_inv"].numel() > 1 or grid == (1, 1):
            scale = layer.scale("weight_scale_inv", (grid, ()))
            return BlockFloat8Weight(codes, scale.reshape(grid))
        return Float8Weight(codes, layer.scale("weight_scale_inv", ((),)))
    scale = torch.ones(())
    if "weight_scale" in layer.pieces:
        rows = codes.shape[0]
        scale = layer.scale("weight_scale", ((), (rows,), (rows, 1)))
    return Float8Weight(codes, scale, layer.pieces.get("input_scale"))


def _nvfloat4(layer: _Layer) -> Weight:
    codes, block_scale = layer.weight, layer.pieces.get("weight_scale")
    if codes.dim() != 2 or block_scale is None:
        raise layer.error("is stored as bytes without weight_scale; take another file")
    columns = 2 * codes.shape[1]
    if block_scale.dtype == torch.uint8:
        block_scale = block_scale.view(torch.float8_e4m3fn)
    grid = scale_grid(codes.shape[0], columns)
    if columns % 16 or tuple(block_scale.shape) != grid:
        raise layer.error(f"weight_scale has shape {list(block_scale.shape)}, not {list(grid)}")
    if block_scale.dtype != torch.float8_e4m3fn:
        raise layer.error(f"weight_scale is stored as {block_scale.dtype}; NVFP4 has float8 there")
    # the one code of E4M3 that is no number, with either sign
    if ((block_scale.view(torch.uint8) & 0x7F) == 0x7F).any():
        raise layer.error("weight_scale is not finite; fetch the file again")
    before = "pre_quant_scale"
    scales = NVFloat4Scales(
        block_scale,
        layer.scale("weight_scale_2", ((),)),
        layer.scale(before, ((columns,),)) if before in layer.pieces else None,
        layer.pieces.get("input_scale"),
    )
    return NVFloat4Weight(codes, scales)


def _check_marker(layer: _Layer, stated: str | None) -> None:
    """What the file says of a layer's format must be what is found. Raises WeightsError."""
    marker = layer.pieces.get("comfy_quant")
    if marker is not None:
        if marker.dtype != torch.uint8:
            raise layer.error("comfy_quant is no text; fetch the file again")
        stated = str(_json(bytes(marker.tolist()), layer.path).get("format", stated))
    if stated is None:
        return
    if stated not in _FORMATS:
        raise layer.error(f"has the format {stated}; only {', '.join(_FORMATS)} are read")
    if layer.weight.dtype != _FORMATS[stated]:
        raise layer.error(f"is said to be {stated} and stored as {layer.weight.dtype}")


def _is_float8_matrix(layer: _Layer) -> bool:
    return layer.weight.dtype in FLOAT8 and layer.weight.dim() == 2


def _check_scales(layers: list[_Layer], path: Path) -> None:
    """Either every float8 layer has a scale or none has. Raises WeightsError."""
    scales = {"weight_scale", "weight_scale_inv"}
    bare = [layer for layer in layers if not scales & layer.pieces.keys()]
    if bare and len(bare) < len(layers):
        raise bare[0].error(
            f"is float8 without a weight_scale, which {len(layers) - len(bare)} others have "
            f"({len(bare)} lack it); fetch the file again"
        )
    if bare:
        _warn_of_plain_float8(path, len(bare))


# a file is opened to be checked and opened again to be used
@cache
def _warn_of_plain_float8(path: Path, count: int) -> None:
    _log.warning(
        "%s: the float8 layers (%d) have no scales, they are a plain cast: small weights are lost "
        "and pictures may be poor; a file with scales is better",
        path.name,
        count,
    )


def _json(text: str | bytes, path: Path) -> dict[str, Any]:
    parse: Callable[[str | bytes], Any] = json.loads
    try:
        values = parse(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its quantization metadata is no JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: its quantization metadata is no JSON object")
    return values
