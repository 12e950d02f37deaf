"""Encoded training examples in memory, refreshed a little at every step."""

from collections.abc import Callable

import torch
from torch import Tensor

from kleinod.latents import latents_to_tokens
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.training.edits import Example
from kleinod.training.layouts import SIZE
from kleinod.training.scenes import Composer, Scene


class Pool:
    """A ring of examples of one kind: pictures' tokens (target first), prompts and masks.

    Reading is random over what is there; `refill` overwrites the oldest once the ring is full. All
    pictures of a pool have its size (width, height).
    """

    def __init__(
        self,
        make: Callable[[], Example],
        pictures: int,
        capacity: int,
        *,
        size: tuple[int, int] = (SIZE, SIZE),
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

    def refill(
        self, number: int, composer: Composer, autoencoder: Autoencoder, tokenizer: Tokenizer
    ) -> None:
        """Compose and encode `number` new examples."""
        examples = [self.make() for _ in range(number)]
        scenes = [s for refs, _, target in examples for s in (target, *refs)]
        tokens = encode(scenes, composer, autoencoder)
        tokens = tokens.reshape(number, self.pictures, *tokens.shape[1:])
        ids, mask = tokenizer.encode([words for _, words, _ in examples])
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
        rows = torch.randint(self.count, (number,))
        return self._tokens[rows].float(), self._ids[rows], self._mask[rows]


@torch.no_grad()
def encode(scenes: list[Scene], composer: Composer, autoencoder: Autoencoder) -> Tensor:
    """Normalised latent tokens (n, l, 128), float32."""
    pictures = torch.stack([torch.from_numpy(composer.render(s).copy()) for s in scenes])
    scaled = pictures.permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.autocast("cpu", torch.bfloat16):
        latents = autoencoder.encode(scaled.contiguous(memory_format=torch.channels_last))
    return latents_to_tokens(latents.float())
