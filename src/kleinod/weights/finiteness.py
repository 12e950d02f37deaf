"""Weights that are not finite: found where tensors are converted anyway, and named afterwards.

A mapped file is not read once more to look for NaN. What is converted or packed is checked then;
where mapped weights spoil a picture, `first_not_finite` finds the tensor (a pass over all weights).
"""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from kleinod.quantization.stored import StoredWeight

# of a stored matrix, expanded at a time
_ROWS_AT_ONCE = 512


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite, in one pass; whole numbers are."""
    if not tensor.numel() or not tensor.is_floating_point():
        return True
    # both are NaN where any number is; five to twenty times as fast as isfinite
    least, greatest = torch.aminmax(tensor)
    return bool(torch.isfinite(least) & torch.isfinite(greatest))


def first_not_finite(module: nn.Module) -> str | None:
    """The name of a tensor of a loaded component that holds NaN or infinity, else None."""
    seen: set[str] = set()
    for name, part in module.named_modules():
        if isinstance(part, StoredWeight):
            seen |= {f"{name}.{buffer}" for buffer, _ in part.named_buffers()}
            if not all(map(is_finite, _expanded(part))):
                return name
    tensors: Iterable[tuple[str, Tensor]] = (*module.named_parameters(), *module.named_buffers())
    return next(
        (n for n, tensor in tensors if n not in seen and not _is_plain_finite(tensor)), None
    )


def _expanded(weight: StoredWeight) -> Iterator[Tensor]:
    for start in range(0, weight.shape[0], _ROWS_AT_ONCE):
        stop = min(start + _ROWS_AT_ONCE, weight.shape[0])
        yield weight.block(torch.float32, slice(start, stop))


def _is_plain_finite(tensor: Tensor) -> bool:
    # aminmax knows no float8
    return is_finite(tensor.float() if tensor.dtype.itemsize == 1 else tensor)


def cause_of_not_finite(components: Mapping[str, nn.Module], dtype: torch.dtype) -> str:
    """Why latents or pixels may not be finite, and the remedy, in a few words.

    components: the loaded modules by name; dtype: what they are computed in.
    """
    for component, module in components.items():
        name = first_not_finite(module)
        if name is not None:
            return f"{component} weight {name} holds NaN or infinity; fetch the model again"
    if dtype != torch.float32:
        return "try dtype float32"
    return "the weights are finite and float32 overflows: the model is damaged or not trained"
