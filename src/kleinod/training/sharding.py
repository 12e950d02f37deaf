"""Weights, gradients and optimiser spread over the processes (FSDP2), and gathered for a file.

Blocks are sharded one by one, then what is left of the module. Files always hold whole tensors, so
that a run can go on with another number of processes.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from kleinod.models.text_encoder import TextEncoder
from kleinod.models.transformer import Transformer


def blocks(module: nn.Module) -> list[nn.Module]:
    """The repeated blocks of transformers and text encoders inside a module, in order."""
    found: list[nn.Module] = []
    for part in module.modules():
        if isinstance(part, Transformer):
            found += [*part.double_blocks, *part.single_blocks]
        elif isinstance(part, TextEncoder):
            found += list(part.model.layers.children())  # type: ignore[union-attr]
    return found


def shard(module: nn.Module) -> None:
    """Spread over all processes; needs a started process group."""
    from torch.distributed.fsdp import fully_shard

    for block in blocks(module):
        fully_shard(block)
    fully_shard(module)


def gathered(value: Any) -> Any:  # noqa: ANN401
    """A state with whole tensors; every process must call it."""
    if isinstance(value, DTensor):
        return value.full_tensor()
    if isinstance(value, dict):
        return {key: gathered(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [gathered(inner) for inner in value]
    return value


def whole(tensor: Tensor) -> Tensor:
    """A tensor that may be sharded, put together; every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def spread_like(full: Tensor, model: Tensor) -> Tensor:
    """A whole tensor on the device of another, and sharded as that is."""
    moved = full.to(model.device)
    if isinstance(model, DTensor):
        return distribute_tensor(moved, model.device_mesh, model.placements)
    return moved


@torch.no_grad()
def load_into(module: nn.Module, state: dict[str, Tensor]) -> None:
    """Strictly, whole tensors into a module that may be sharded."""
    own = module.state_dict()
    spread = {n: spread_like(t, own[n]) if n in own else t for n, t in state.items()}
    module.load_state_dict(spread)


def checkpoint_activations(
    module: nn.Module, context: Callable[[], AbstractContextManager[None]] = nullcontext
) -> None:
    """Compute each block's activations again in the backward pass in place of keeping them.

    `context` is what the forward pass runs in beside autocast; the second pass needs it too.
    """
    from torch.utils.checkpoint import checkpoint

    for block in blocks(module):
        plain = block.forward

        def again(*inputs: Any, plain: Any = plain, **named: Any) -> Any:  # noqa: ANN401
            def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
                return nullcontext(), context()

            return checkpoint(plain, *inputs, use_reentrant=False, context_fn=contexts, **named)

        block.forward = again
