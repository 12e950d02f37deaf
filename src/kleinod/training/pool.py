"""Encoded training examples in memory, refreshed a little at every step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kleinod.diffusion.latents import latents_to_tokens
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.training.flow import autocast

# a batch's activations must fit in memory: of klein's encoder 0.5 GB a layer for a million pixels
_PIXELS_AT_ONCE = 3 * 2**20

Drawn = tuple[list[np.ndarray], str]
"""An example: pictures (h, w, 3) uint8, the target first, then its references; and the words."""


@dataclass(frozen=True)
class Tools:
    """What turns examples into tokens, and the generator from which examples are drawn."""

    rng: np.random.Generator
    autoencoder: Autoencoder
    tokenizer: Tokenizer


class Pool:
    """A ring of examples of one kind: pictures' tokens (target first), prompts and masks.

    Reading is random over what is there; `refill` overwrites the oldest once the ring is full. All
    pictures of a pool have its size (width, height).
    """

    def __init__(
        self, make: Callable[[], Drawn], pictures: int, *, capacity: int, size: tuple[int, int]
    ) -> None:
        self.make, self.pictures, self.capacity, self.size = make, pictures, capacity, size
        self.count = self.next = 0
        self._tokens = torch.empty(0)
        self._ids = self._mask = torch.empty(0, dtype=torch.long)

    @property
    def grid(self) -> tuple[int, int]:
        """Latent rows and columns of a picture."""
        return self.size[1] // 16, self.size[0] // 16

    def batch(self, number: int) -> int:
        """How many examples cost about as much as `number` of 128 pixels (small ones no more)."""
        return max(1, min(number, number * 80 // (self.grid[0] * self.grid[1])))

    def fill(self, number: int, tools: Tools) -> None:
        """Make examples until there are so many, or the ring is full."""
        while self.count < min(number, self.capacity):
            self.refill(min(64, number, self.capacity - self.count), tools)

    def refill(self, number: int, tools: Tools) -> None:
        """Make and encode `number` new examples."""
        examples = [self.make() for _ in range(number)]
        tokens = encode([p for pictures, _ in examples for p in pictures], tools.autoencoder)
        tokens = tokens.reshape(number, self.pictures, *tokens.shape[1:])
        ids, mask = tools.tokenizer.encode([words for _, words in examples])
        if not len(self._tokens):
            self._tokens = torch.empty(self.capacity, *tokens.shape[1:], dtype=torch.bfloat16)
            self._ids = torch.empty(self.capacity, ids.shape[1], dtype=torch.long)
            self._mask = torch.empty_like(self._ids)
        places = (torch.arange(number) + self.next) % self.capacity
        self._tokens[places], self._ids[places], self._mask[places] = tokens.bfloat16(), ids, mask
        self.next = int(places[-1] + 1) % self.capacity
        self.count = min(self.count + number, self.capacity)

    def draw(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens (n, pictures, l, 128) float32, ids and mask (n, t)."""
        return self.at(torch.randint(self.count, (number,)))

    def at(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same of given rows (n,)."""
        return self._tokens[rows].float(), self._ids[rows], self._mask[rows]

    def state_dict(self) -> dict[str, Any]:
        """The ring."""
        tensors = {"tokens": self._tokens, "ids": self._ids, "mask": self._mask}
        return tensors | {"count": self.count, "next": self.next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self._tokens, self._ids, self._mask = (state[n] for n in ("tokens", "ids", "mask"))
        self.count, self.next = state["count"], state["next"]


def velocities(
    flow: nn.Module, pools: Sequence[Pool], compiled_size: tuple[int, int] | None
) -> list[Callable[..., Tensor]]:
    """What computes each pool's batches: for one size a compiled graph each, else the flow."""
    compiled = torch.compile(flow, dynamic=False) if compiled_size else flow
    return [compiled if pool.size == compiled_size else flow for pool in pools]


@torch.no_grad()
def encode(pictures: Sequence[np.ndarray], autoencoder: Autoencoder) -> Tensor:
    """Normalised latent tokens (n, l, 128), float32, of pictures (h, w, 3) of one size."""
    device = next(autoencoder.parameters()).device
    step = max(1, _PIXELS_AT_ONCE // (pictures[0].shape[0] * pictures[0].shape[1]))
    tokens = []
    for start in range(0, len(pictures), step):
        stacked = torch.from_numpy(np.stack(pictures[start : start + step])).to(device)
        scaled = stacked.permute(0, 3, 1, 2).float() / 127.5 - 1
        with autocast(device.type):
            latents = autoencoder.encode(scaled.contiguous(memory_format=torch.channels_last))
        tokens.append(latents_to_tokens(latents.float()).cpu())
    return torch.cat(tokens)
