"""Components from files, strictly: built on the meta device, checked, then filled.

`open_*` reads names and shapes and checks them; `Blueprint.filled` gives the module. On the CPU, in
the stored dtype, the module's tensors are the mapped file: nothing is copied. Matrices stored in a
narrower format stay in it, in every dtype; what is small or no linear is expanded here.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kleinod.compute.matmul import JoinedLinear, product_dtype
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.errors import WeightsError
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer
from kleinod.quantization.int8 import Int8Linear
from kleinod.quantization.stored import (
    PlainWeight,
    StoredEmbedding,
    StoredLinear,
    StoredWeight,
    Weight,
)
from kleinod.weights import geometry
from kleinod.weights.files import read_weights
from kleinod.weights.finiteness import is_finite
from kleinod.weights.key_maps import (
    AUTOENCODER,
    TEXT_ENCODER_GGUF,
    TRANSFORMER,
    WeightParts,
    to_bfl,
    to_diffusers,
)
from kleinod.weights.kinds import check_kind
from kleinod.weights.mapped_pages import let_go, mapped_ranges
from kleinod.weights.prefixes import AUTOENCODER as AUTOENCODER_NAME
from kleinod.weights.prefixes import TEXT_ENCODER as TEXT_ENCODER_NAME
from kleinod.weights.prefixes import TRANSFORMER as TRANSFORMER_NAME

# a count kept from training, which nothing reads; some files leave it out
_OPTIONAL = "bn.num_batches_tracked"
# what the published decoder has in common with the whole autoencoder
_SHARED = ("bn.running_mean", "bn.running_var", "post_quant_conv.weight", "post_quant_conv.bias")
# The linears that int8 takes: the blocks', where nearly all of the time is spent. What reads or
# writes latents, words and time is a hundredth of the work and stays as it is (docs/speed.md).
_BLOCK_LINEARS = re.compile(r"(double_blocks|single_blocks|model\.layers)\..*\.weight")
_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@dataclass
class Blueprint:
    """A component whose names and shapes fit: the module on the meta device, and its tensors."""

    module: nn.Module
    parts: dict[str, WeightParts]
    path: Path

    def filled(
        self, device: torch.device, dtype: torch.dtype, *, quantize: str | None = None
    ) -> nn.Module:
        """The module with its weights; use a blueprint once. quantize: "int8" or none.

        Raises WeightsError where a weight that is converted or packed is not finite.
        """
        whole: dict[str, Tensor] = {}
        for name, parts in self.parts.items():
            moved = tuple(self._moved(name, part, device, dtype) for part in parts)
            stand_in = self._stand_in(name, parts, moved, dtype, quantize=quantize)
            if stand_in is None:
                dense = [self._dense(name, p, dtype) for p in moved]
                whole[name] = dense[0] if len(dense) == 1 else torch.cat(dense)
            else:
                layer = name.rpartition(".")[0]
                _replace(self.module, layer, stand_in)
                whole |= {f"{layer}.{key}": value for key, value in stand_in.state_dict().items()}
        self.module.load_state_dict(whole, strict=True, assign=True)
        return self.module.eval().requires_grad_(False)

    def _stand_in(
        self,
        name: str,
        parts: WeightParts,
        moved: WeightParts,
        dtype: torch.dtype,
        *,
        quantize: str | None,
    ) -> nn.Module | None:
        """What takes the place of the weight's module, if its weight is not to be a plain one."""
        layer, _, leaf = name.rpartition(".")
        if leaf != "weight":
            return None
        target = self.module.get_submodule(layer)
        if quantize and _BLOCK_LINEARS.fullmatch(name) and isinstance(target, nn.Linear):
            packed = Int8Linear(moved)
            let_go(mapped_ranges(_tensors(parts)))
            if not packed.is_finite:
                raise self._not_finite(name)
            return packed
        is_mapped = all(a is b for a, b in zip(moved, parts, strict=True))
        return _stand_in(target, moved, dtype, is_mapped=is_mapped)

    def _moved(self, name: str, part: Weight, device: torch.device, dtype: torch.dtype) -> Weight:
        if isinstance(part, StoredWeight):
            return part.to(device)
        moved = part.to(device, dtype if part.is_floating_point() else part.dtype)
        if moved is not part and not is_finite(moved):
            raise self._not_finite(name)
        return moved

    def _dense(self, name: str, part: Weight, dtype: torch.dtype) -> Tensor:
        if isinstance(part, Tensor):
            return part
        dense = part.dense(dtype)
        if not is_finite(dense):
            raise self._not_finite(name)
        return dense

    def _not_finite(self, name: str) -> WeightsError:
        return WeightsError(
            f"{self.path}: tensor {name} holds NaN or infinity (or overflows); fetch it again"
        )


def _tensors(parts: WeightParts) -> Iterator[Tensor]:
    for part in parts:
        yield from (part,) if isinstance(part, Tensor) else part.buffers()


def _stand_in(
    target: nn.Module, parts: WeightParts, dtype: torch.dtype, *, is_mapped: bool
) -> nn.Module | None:
    """What takes the place of a linear or an embedding, so that its weight stays as it is."""
    plain = tuple(part for part in parts if isinstance(part, Tensor))
    is_narrow = product_dtype(dtype, parts[0].device) != dtype
    if len(plain) == len(parts) and not (is_narrow and isinstance(target, nn.Linear)):
        return JoinedLinear(plain) if len(parts) > 1 and is_mapped else None
    if isinstance(target, nn.Linear) and target.bias is None:
        return StoredLinear(tuple(PlainWeight(p) if isinstance(p, Tensor) else p for p in parts))
    if isinstance(target, nn.Embedding) and isinstance(parts[0], StoredWeight):
        return StoredEmbedding(parts[0], dtype)
    return None


def open_transformer(path: Path) -> Blueprint:
    """The transformer of a folder, a single file or a checkpoint. Raises WeightsError."""
    with _named(path, TRANSFORMER_NAME):
        tensors = to_bfl(read_weights(path, TRANSFORMER_NAME), TRANSFORMER)
        if _has_config(path):
            config = TransformerConfig.from_folder(path)
            _check_depth(config.num_layers + config.num_single_layers, tensors, path)
        else:
            config = geometry.transformer(tensors, path)
        return _checked(lambda: Transformer(config), tensors, path)


def open_autoencoder(path: Path, statistics: Path | None = None) -> Blueprint:
    """The autoencoder of a folder, a single file or a checkpoint, or its decoder alone.

    statistics: another autoencoder of the model, from which a decoder that brings no `bn` and no
    `post_quant_conv` takes them. Raises WeightsError.
    """
    with _named(path, AUTOENCODER_NAME):
        tensors = _autoencoder_tensors(path)
        has_encoder = geometry.has_encoder(tensors)
        if statistics is not None and not has_encoder:
            others = _autoencoder_tensors(statistics)
            tensors |= {name: others[name] for name in _SHARED if name in others.keys() - tensors}
        geometry.check_autoencoder(tensors, path)
        tensors.setdefault(_OPTIONAL, (torch.zeros((), dtype=torch.long),))
        if _has_config(path):
            config = replace(AutoencoderConfig.from_folder(path), has_encoder=has_encoder)
            _check_depth(len(config.block_out_channels) * config.layers_per_block, tensors, path)
        else:
            config = geometry.autoencoder(tensors, path)
        return _checked(lambda: Autoencoder(config), tensors, path)


def _autoencoder_tensors(path: Path) -> dict[str, WeightParts]:
    # small and mostly convolutions: expanded at once
    whole = {
        name: weight.dense(torch.float32) if isinstance(weight, StoredWeight) else weight
        for name, weight in read_weights(path, AUTOENCODER_NAME).items()
    }
    return dict(to_diffusers(whole, AUTOENCODER))


def open_text_encoder(path: Path, layers: tuple[int, ...]) -> Blueprint:
    """The text encoder of a folder, a single file or a checkpoint, up to the last layer read."""
    with _named(path, TEXT_ENCODER_NAME):
        tensors = to_bfl(read_weights(path, TEXT_ENCODER_NAME), TEXT_ENCODER_GGUF)
        if _has_config(path):
            config = TextEncoderConfig.from_folder(path)
            _check_depth(config.num_hidden_layers, tensors, path)
        else:
            config = geometry.text_encoder(tensors, path)
        depth = config.num_hidden_layers
        if max(layers) > depth:
            raise WeightsError(f"{path}: has {depth} layers, {max(layers)} are read; wrong encoder")
        unread = tuple(f"model.layers.{n}." for n in range(max(layers), depth))
        unread += ("lm_head.", "model.norm.")
        read = {name: parts for name, parts in tensors.items() if not name.startswith(unread)}
        return _checked(lambda: TextEncoder(config, layers), read, path)


@contextmanager
def _named(path: Path, component: str) -> Iterator[None]:
    """A refusal says what the file is, where its header shows that it is something else."""
    try:
        yield
    except geometry.MissingTensorError as error:
        try:
            check_kind(path, component)
        except WeightsError as other:
            raise other from error
        raise


def _has_config(path: Path) -> bool:
    return (path / "config.json").is_file()


def _check_depth(depth: int, tensors: Mapping[str, WeightParts], path: Path) -> None:
    """A configuration must not make us build more blocks than the file can fill."""
    if depth > len(tensors):
        raise WeightsError(f"{path}: config.json names {depth} blocks for {len(tensors)} tensors")


def _checked(
    build: Callable[[], nn.Module], tensors: Mapping[str, WeightParts], path: Path
) -> Blueprint:
    """The module on the meta device, if each of its tensors is there, fits, and no other is."""
    try:
        with torch.device("meta"):
            module = build()
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise WeightsError(f"{path}: its sizes make no model ({error})") from error
    expected = module.state_dict()
    lacking, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if lacking:
        raise geometry.MissingTensorError(
            f"{path}: lacks tensor {min(lacking)} ({len(lacking)} in all)"
        )
    if unknown:
        raise WeightsError(f"{path}: has the unknown tensor {min(unknown)} ({len(unknown)} in all)")
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    fitted = {name: _fitted(parts, shapes[name]) for name, parts in tensors.items()}
    _check_shapes(shapes, fitted, path)
    _check_dtypes(fitted, path)
    return Blueprint(module, fitted, path)


def _fitted(parts: WeightParts, shape: geometry.Shape) -> WeightParts:
    if len(parts) == 1 and isinstance(parts[0], StoredWeight):
        return (parts[0].fitted(shape),)
    return parts


def _check_shapes(
    expected: Mapping[str, geometry.Shape], tensors: Mapping[str, WeightParts], path: Path
) -> None:
    shapes = {name: geometry.joined_shape(parts) for name, parts in tensors.items()}
    wrong = sorted(name for name, shape in shapes.items() if shape != expected[name])
    if wrong:
        name = wrong[0]
        raise WeightsError(
            f"{path}: tensor {name} has shape {list(shapes[name])}, not {list(expected[name])} "
            f"({len(wrong)} in all)"
        )


def _check_dtypes(tensors: Mapping[str, WeightParts], path: Path) -> None:
    for name, parts in tensors.items():
        for part in parts:
            if not isinstance(part, Tensor) or not part.is_floating_point():
                continue
            if part.dtype not in _DTYPES:
                raise WeightsError(
                    f"{path}: tensor {name} is stored as {part.dtype}; "
                    "only bfloat16, float16 and float32 are read"
                )


def _replace(module: nn.Module, name: str, stand_in: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(module.get_submodule(parent), child, stand_in)
