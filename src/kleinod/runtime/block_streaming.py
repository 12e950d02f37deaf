"""Blocks that visit the device: weights wait in pinned memory, the next block is copied meanwhile.

Each block's tensors lie in one flat host buffer, so a visit is one copy. The device has as many
places as are ahead of the computation plus one; a copy waits until the block that had its place is
done, a block until its copy is. The first blocks stay for good, as many as a budget allows.
On a device without streams the copies are made in order: the same results.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

# where a tensor may begin: what the copy engines and vector loads like
_ALIGNMENT = 256
_PLACES = 2
# of the device's free memory, for activations of one picture of a megapixel and the decoder
RESERVED_BYTES = 3 * 1024**3


@dataclass
class _Field:
    """A tensor of a block: whose, its name, and where its bytes lie in the flat buffer."""

    owner: nn.Module
    name: str
    like: Tensor
    offset: int

    def within(self, flat: Tensor) -> Tensor:
        """This tensor as a view of a flat buffer of bytes."""
        end = self.offset + self.like.nbytes
        return flat[self.offset : end].view(self.like.dtype).view(self.like.shape)

    def put(self, value: Tensor) -> None:
        """Make it the owner's."""
        if self.name in self.owner._parameters:
            self.owner._parameters[self.name] = nn.Parameter(value, requires_grad=False)
        else:
            self.owner._buffers[self.name] = value


@dataclass
class _Block:
    module: nn.Module
    fields: list[_Field]
    host: Tensor
    arrived: "torch.cuda.Event | None" = None


@dataclass
class _Place:
    """Room for one block on the device."""

    flat: Tensor
    holder: _Block | None = None
    free: "torch.cuda.Event | None" = field(default=None)


def streamed(module: nn.Module, blocks: list[nn.Module], device: torch.device) -> nn.Module:
    """A component in host memory made ready for a device: its blocks visit, the rest moves there.

    Blocks stay as long as the device has room, less what activations may take.
    """
    budget = sys.maxsize
    if device.type == "cuda":
        budget = max(0, torch.cuda.mem_get_info(device)[0] - RESERVED_BYTES)
    held = BlockStream(blocks, device, budget_bytes=budget).hosted
    for owner, name, tensor in _tensors(module):
        if id(owner) not in held:
            _Field(owner, name, tensor, 0).put(tensor.to(device))
    return module


class BlockStream:
    """Runs blocks in their order, again and again, with few of them on the device."""

    def __init__(self, blocks: list[nn.Module], device: torch.device, *, budget_bytes: int) -> None:
        """budget_bytes: the most that blocks may take there; at least two are there."""
        self._device = device
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None
        sizes = [_layout(block)[1] for block in blocks]
        self.num_resident = resident_count(sizes, budget_bytes)
        for resident in blocks[: self.num_resident]:
            resident.to(device)
        self._blocks = [self._hosted(block) for block in blocks[self.num_resident :]]
        largest = max((len(block.host) for block in self._blocks), default=0)
        count = min(_PLACES, len(self._blocks))
        self._places = [
            _Place(torch.empty(largest, dtype=torch.uint8, device=device)) for _ in range(count)
        ]
        for index, visitor in enumerate(self._blocks):
            visitor.module.register_forward_pre_hook(self._before(index))
            visitor.module.register_forward_hook(self._after(index))

    @property
    def hosted(self) -> set[int]:
        """The ids of the modules whose tensors wait in host memory."""
        return {id(owner) for block in self._blocks for owner in block.module.modules()}

    def _hosted(self, module: nn.Module) -> _Block:
        fields, size = _layout(module)
        host = torch.empty(size, dtype=torch.uint8, pin_memory=self._copies is not None)
        for item in fields:
            item.within(host).copy_(item.like)
            item.put(item.within(host))
            item.like = item.within(host)
        return _Block(module, fields, host)

    def _before(self, index: int) -> Callable[..., None]:
        def arrive(module: nn.Module, inputs: object) -> None:
            block, place = self._blocks[index], self._fetched(index, busy=None)
            if block.arrived is not None:
                torch.cuda.current_stream(self._device).wait_event(block.arrived)
            for item in block.fields:
                item.put(item.within(place.flat))
            # the last block's successor is the first one, of the next pass
            self._fetched((index + 1) % len(self._blocks), busy=place)

        return arrive

    def _after(self, index: int) -> Callable[..., None]:
        def leave(module: nn.Module, inputs: object, output: object) -> None:
            block, place = self._blocks[index], self._fetched(index, busy=None)
            if self._copies is not None:
                place.free = torch.cuda.Event()
                place.free.record(torch.cuda.current_stream(self._device))
            for item in block.fields:
                item.put(item.within(block.host))

        return leave

    def _fetched(self, index: int, *, busy: _Place | None) -> _Place:
        """Where a block is or will be: copied to a place that is not busy, if it is in none."""
        block = self._blocks[index]
        places = sorted(self._places, key=lambda place: place.holder is not block)
        place = next(place for place in places if place.holder is block or place is not busy)
        if place.holder is block:
            return place
        place.holder = block
        target = place.flat[: len(block.host)]
        if self._copies is None:
            target.copy_(block.host)
            return place
        with torch.cuda.stream(self._copies):
            if place.free is not None:
                self._copies.wait_event(place.free)
            target.copy_(block.host, non_blocking=True)
            block.arrived = torch.cuda.Event()
            block.arrived.record(self._copies)
        return place


def resident_count(sizes: list[int], budget_bytes: int) -> int:
    """How many of the first blocks may stay, if the rest needs places for two of its largest."""
    for count in range(len(sizes), 0, -1):
        rest = sizes[count:]
        if sum(sizes[:count]) + min(_PLACES, len(rest)) * max(rest, default=0) <= budget_bytes:
            return count
    return 0


def _layout(module: nn.Module) -> tuple[list[_Field], int]:
    """Where each tensor of a block lies in a flat buffer, and the buffer's bytes."""
    fields, end = [], 0
    for owner, name, tensor in _tensors(module):
        fields.append(_Field(owner, name, tensor, end))
        end += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    return fields, end


def _tensors(module: nn.Module) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for owner in module.modules():
        for name, tensor in (*owner._parameters.items(), *owner._buffers.items()):
            if tensor is not None:
                yield owner, name, tensor.detach()
