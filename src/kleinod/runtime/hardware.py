"""How much memory this machine has: the graphics card's where there is one, else its own."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

_CGROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Memory:
    """The device that a model runs on by default, and all the memory that it has."""

    device: str
    num_bytes: int | None

    def policy(self, needed: dict[str, int] | None) -> str | None:
        """The first offload policy whose bytes fit; None: none does, or it is not known."""
        if needed is None or self.num_bytes is None:
            return None
        return next((name for name, size in needed.items() if size <= self.num_bytes), None)


def device_memory() -> Memory:
    """That of the first NVIDIA card that torch can use, else the machine's."""
    if Path("/proc/driver/nvidia").exists() or shutil.which("nvidia-smi"):
        import torch  # takes a second, and a machine without a card need not wait for it

        if torch.cuda.is_available():
            card = torch.cuda.get_device_properties(0)
            return Memory(card.name, card.total_memory)
    return Memory("RAM", _machine_bytes())


def _machine_bytes() -> int | None:
    """Physical memory, or what a container may take of it; None where the system does not tell."""
    try:
        physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # no such call on Windows
        return None
    return min([physical, *filter(None, map(_limit, _CGROUP_LIMITS))])


def _limit(file: Path) -> int | None:
    """A container's limit in bytes; None: there is none ("max")."""
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None
