"""The last prompts' embeddings, on the CPU, so that a repeated prompt needs no text encoder."""

from collections import OrderedDict
from collections.abc import Callable, Iterable

from torch import Tensor

# 8 MB each for klein-4b, 13 MB for klein-9b
DEFAULT_CAPACITY = 32


class EmbeddingCache:
    """Least recently used goes first."""

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        self.capacity = capacity
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def embeds(
        self, prompts: Iterable[str], encode: Callable[[list[str]], Tensor]
    ) -> dict[str, Tensor]:
        """Embeddings (1, t, d) by prompt; encode gives those of the unknown prompts (b, t, d)."""
        wanted = sorted(set(prompts))
        unknown = [prompt for prompt in wanted if prompt not in self._held]
        result = {prompt: self._held[prompt] for prompt in wanted if prompt in self._held}
        if unknown:
            rows = encode(unknown).cpu()[:, None].unbind()
            # clone: a row must not keep the whole batch alive
            result |= {p: row.clone() for p, row in zip(unknown, rows, strict=True)}
        self._remember(result)
        return result

    def _remember(self, embeds: dict[str, Tensor]) -> None:
        for prompt, row in embeds.items():
            self._held[prompt] = row
            self._held.move_to_end(prompt)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
