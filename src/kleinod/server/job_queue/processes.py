"""Which process this is, and whether another one on this machine is alive."""

import os
import socket
from pathlib import Path


def machine() -> str:
    """The running system, its processes' numbers included: another container is another one."""
    parts = [socket.gethostname()]
    try:
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(os.readlink("/proc/self/ns/pid"))
    except OSError:  # no Linux: the name must do
        pass
    return " ".join(parts)[:200]


def process() -> str:
    """This process's number and, where it is known, when it began: numbers are given again."""
    return f"{os.getpid()} {_begun(os.getpid()) or ''}".strip()


def is_dead(process: str) -> bool:
    """Whether a process of this machine has surely ended; False where that cannot be known."""
    number, _, begun = process.partition(" ")
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user has this number now; /proc may hide when it began
        return bool(begun) and _begun(int(number)) not in (None, begun)
    except (OSError, ValueError):  # none of ours
        return False
    return bool(begun) and _begun(int(number)) != begun


def _begun(number: int) -> str | None:
    """When it began, in ticks since the boot; None for one that has ended or is unknown."""
    try:
        facts = Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = facts.rpartition(")")[2].split()
    # a zombie runs no more, though its parent has not asked for its status yet
    return None if fields[0] in "ZX" else fields[19]
