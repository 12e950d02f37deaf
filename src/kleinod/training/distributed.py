"""One process or many (torchrun): who am I, and the mean of the gradients over all of us."""

import gc
import logging
import os
import time
import weakref
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

# far longer than a thread takes to release a collective's tensors
_RELEASE_SECONDS = 1.0
_log = logging.getLogger(__name__)


def start() -> tuple[int, int]:
    """(rank, world size); joins the group that torchrun describes, (0, 1) without one."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), dist.get_world_size()


def stop() -> None:
    """Leave the group, if there is one, and end the threads of its collectives.

    Gloo's threads release a collective's tensors after they have reported its end. To release a
    tensor that Python knows they take the GIL; CPython before 3.14 ends a thread that asks for it
    while the interpreter shuts down, here inside a destructor, and the process aborts ("terminate
    called without an active exception"). The group's destructor joins the threads.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    group = weakref.ref(dist.group.WORLD)
    dist.destroy_process_group()
    gc.collect()  # sharded modules are cycles, and refer to the group
    _release_meshes()
    if group() is not None:
        _log.debug("the process group is still referred to; waiting for its threads")
        time.sleep(_RELEASE_SECONDS)


def _release_meshes() -> None:
    """Have device meshes forget their groups: DTensor's caches keep meshes for good."""
    from torch.distributed.device_mesh import DeviceMesh

    # not isinstance: some of torch's objects warn when they are asked for their class
    for mesh in [found for found in gc.get_objects() if type(found) is DeviceMesh]:
        getattr(mesh, "_pg_registry", {}).clear()


def shared_choice(seed: int, step: int, shares: Sequence[float]) -> int:
    """An index drawn by shares: the same in every process, so that none waits for another."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    return int(torch.multinomial(torch.tensor(shares), 1, generator=generator))


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its mean over all processes, in one message."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    gradients: list[Tensor] = [p.grad for p in parameters if p.grad is not None]
    joined = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(joined)
    joined /= dist.get_world_size()
    offset = 0
    for gradient in gradients:
        gradient.copy_(joined[offset : offset + gradient.numel()].view_as(gradient))
        offset += gradient.numel()


def any_signal(number: int | None) -> int | None:
    """A signal's number that any process received, or None; every process must call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return number
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    largest = torch.tensor(number or 0, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX)
    return int(largest) or None
