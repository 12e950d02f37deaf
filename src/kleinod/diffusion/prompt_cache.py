"""Prompt embeddings kept without loss, so that a repeated prompt needs no text encoder.

In memory the last prompts of a pipeline; on disk, for encoders that take seconds to load and run,
what any process computed. A file's name is a hash of the encoder's fingerprint and the prompt.
"""

import contextlib
import hashlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from kleinod import fileio

# 8 MB each for klein-4b, 13 MB for klein-9b
DEFAULT_CAPACITY = 32
DISK_LIMIT_BYTES = 1024**3


@dataclass(frozen=True)
class EmbeddingStore:
    """A folder of embeddings of one encoder among those of others; the oldest go over the limit.

    Never an obstacle: a file that cannot be read is not there, one that cannot be written is left.
    """

    folder: Path
    fingerprint: str
    limit_bytes: int = DISK_LIMIT_BYTES

    def read(self, prompt: str) -> Tensor | None:
        """Embeddings (1, t, d) of a prompt, bit for bit as they were computed."""
        path = self._path(prompt)
        try:
            embeds = load(path.read_bytes())["prompt_embeds"]
            os.utime(path)
        except (OSError, SafetensorError, KeyError):
            return None
        return embeds

    def write(self, prompt: str, embeds: Tensor) -> None:
        """Keep them, then let the least recently used go."""
        with contextlib.suppress(OSError):
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            data = save({"prompt_embeds": embeds.contiguous()})
            fileio.write_atomic(self._path(prompt), data)
            self._shrink()

    def _path(self, prompt: str) -> Path:
        name = hashlib.sha256(f"{self.fingerprint}\n{prompt}".encode()).hexdigest()
        return self.folder / f"{name}.safetensors"

    def _shrink(self) -> None:
        files = [(file, file.stat()) for file in self.folder.glob("*.safetensors")]
        total = sum(facts.st_size for _, facts in files)
        for file, facts in sorted(files, key=lambda pair: pair[1].st_mtime):
            if total <= self.limit_bytes:
                return
            file.unlink(missing_ok=True)
            total -= facts.st_size


class EmbeddingCache:
    """The last prompts, before them the store if there is one; least recently used goes first."""

    def __init__(
        self, capacity: int = DEFAULT_CAPACITY, store: EmbeddingStore | None = None
    ) -> None:
        self.capacity, self.store = capacity, store
        self._held: OrderedDict[str, Tensor] = OrderedDict()

    def embeds(
        self, prompts: Iterable[str], encode: Callable[[list[str]], Tensor]
    ) -> dict[str, Tensor]:
        """Embeddings (1, t, d) by prompt; encode gives those of the unknown prompts (b, t, d)."""
        wanted = sorted(set(prompts))
        result = {prompt: row for prompt in wanted if (row := self._known(prompt)) is not None}
        unknown = [prompt for prompt in wanted if prompt not in result]
        if unknown:
            rows = encode(unknown).cpu()[:, None].unbind()
            # clone: a row must not keep the whole batch alive
            computed = {p: row.clone() for p, row in zip(unknown, rows, strict=True)}
            for prompt, row in computed.items():
                # of damaged weights: the files would outlive their repair
                if self.store is not None and bool(row.isfinite().all()):
                    self.store.write(prompt, row)
            result |= computed
        self._remember(result)
        return result

    def _known(self, prompt: str) -> Tensor | None:
        if prompt in self._held or self.store is None:
            return self._held.get(prompt)
        return self.store.read(prompt)

    def _remember(self, embeds: dict[str, Tensor]) -> None:
        for prompt, row in embeds.items():
            self._held[prompt] = row
            self._held.move_to_end(prompt)
        while len(self._held) > self.capacity:
            self._held.popitem(last=False)
