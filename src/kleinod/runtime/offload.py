"""Which components are on the device: all of them, only the one in use, or only its block in use.

`none` offloads nothing: what was loaded stays. `model` lets go of every other component before it
loads the next, so that text encoder and transformer are never held at once. `block` does the same,
and lets go of each block of a mapped component after its use (streaming.py); on an accelerator
blocks visit it one after the other (runtime/block_streaming.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from kleinod.runtime.page_streaming import stream

AUTO_LIMIT_BYTES = 2 * 1024**3


def chosen_policy(policy: str, num_bytes: int) -> str:
    """The given policy; `auto` decides by the size of all components' files."""
    if policy != "auto":
        return policy
    return "none" if num_bytes < AUTO_LIMIT_BYTES else "model"


class Residents:
    """Components by name, loaded when first used."""

    def __init__(self, loaders: Mapping[str, Callable[[], nn.Module]], policy: str) -> None:
        self._loaders, self.policy = loaders, policy
        self._held: dict[str, nn.Module] = {}

    def use(self, name: str) -> Any:  # noqa: ANN401 - each component has its own type
        """The component, on the device; but under `none` the only one there."""
        if name not in self._held:
            if self.policy != "none":
                self.release()
            self._held[name] = self._loaders[name]()
            if self.policy == "block":
                stream(self._held[name])
        return self._held[name]

    def release(self) -> None:
        """Let go of every component; nothing refers to itself, so files are unmapped at once."""
        self._held.clear()

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The components in memory by name."""
        return self._held

    @property
    def held(self) -> tuple[str, ...]:
        """Names of the components in memory."""
        return tuple(self._held)
