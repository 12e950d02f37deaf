"""torch.compile for each block of a component, one graph for all blocks of a kind.

Blocks of a kind differ in their weights only, which are inputs of a graph. Sequence lengths are
symbols from the start, so that another picture size compiles nothing; a batch of one and one of
several are two graphs. Norm, rotation, modulation and float8 rounding are fused with their
neighbours by the compiler. Off on the CPU, where compiling takes longer than many pictures.
"""

import logging
from collections.abc import Callable, Iterator

import torch
from torch import nn

# the lists of equal blocks in the transformer and the text encoder
_LISTS = ("double_blocks", "single_blocks", "model.layers")
_log = logging.getLogger(__name__)


def is_wanted(choice: bool | None, device: torch.device) -> bool:
    """The user's choice, else on where a CUDA card pays for it."""
    return device.type == "cuda" if choice is None else choice


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """Every block of a component; none of the autoencoder."""
    for name in _LISTS:
        owner = module
        for step in name.split("."):
            owner = getattr(owner, step, nn.Module())
        if isinstance(owner, nn.ModuleList):
            yield from owner


def compile_blocks(module: nn.Module, *, backend: str | Callable[..., object] = "inductor") -> int:
    """Compile each block in place, when it first runs; how many there are."""
    count = 0
    for block in blocks(module):
        # not the whole module: hooks, such as a stream's, stay outside
        setattr(block, "forward", torch.compile(block.forward, backend=backend, dynamic=True))  # noqa: B010
        count += 1
    if count:
        _log.info("%d blocks are compiled when they first run; --no-compile leaves it", count)
    return count
