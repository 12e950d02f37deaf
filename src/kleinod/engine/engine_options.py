"""What an engine may hold and share, and what it has done so far."""

from dataclasses import dataclass, field, replace
from typing import Self

from kleinod.errors import InputError

STAGES = ("text", "encode", "denoise", "decode", "preview")

# Beyond this a pass gives no more pictures a second, only later ones. The CPU's was measured
# (docs/log/2026-11-25-engine-load.md), the others' is a guess: three pictures of a megapixel.
_BATCH_TOKENS = {"cpu": 768, "cuda": 16384}


@dataclass(frozen=True)
class EngineOptions:
    """Limits of an engine.

    max_batch: pictures in one pass; max_batch_tokens: tokens in one pass of several pictures (a
    larger picture goes alone), None: what the kind of device has use for; max_running: pictures
    begun and not finished, of all shapes; max_queue: requests that wait. Without batching one
    picture is painted after the other.
    """

    max_batch: int = 8
    max_batch_tokens: int | None = None
    max_running: int = 32
    max_queue: int = 256
    is_batching: bool = True

    def batch_tokens(self, device_type: str) -> int:
        """max_batch_tokens on cpu, cuda or mps."""
        return self.max_batch_tokens or _BATCH_TOKENS.get(device_type, _BATCH_TOKENS["cuda"])

    def __post_init__(self) -> None:
        for name in ("max_batch", "max_batch_tokens", "max_running", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: {value} is under 1; give at least 1")


@dataclass
class EngineStats:
    """What an engine holds, and what it has done since it was made.

    queued: requests that wait (some of their pictures may be under way); running: pictures under
    way; steps_total: steps of pictures; passes_total: passes that made them; last_batch: pictures
    in the last pass; stage_seconds: spent in each of STAGES.
    """

    queued: int = 0
    running: int = 0
    steps_total: int = 0
    passes_total: int = 0
    pictures_total: int = 0
    failures_total: int = 0
    cancelled_total: int = 0
    last_batch: int = 0
    stage_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STAGES, 0.0))

    def copy(self, *, queued: int) -> Self:
        """As it is now; it does not grow any more."""
        return replace(self, queued=queued, stage_seconds=dict(self.stage_seconds))
