"""What is measured: one model, one size, one way of running it. No torch in here."""

from dataclasses import asdict, dataclass
from typing import Any, Self

# sizes over this are hours of a CPU's time for the published models
CPU_SIZE = 256
# each call has a prompt that no cache knows, of about as many words
SUBJECTS = ("a red fox in the snow", "a lighthouse at night", "a bowl of cherries", "an old clock")
STAGES = ("encode", "text", "denoise", "per_step", "decode", "total")


@dataclass(frozen=True)
class Plan:
    """One way of running one model; None means the engine's default."""

    model: str
    size: int | None = None
    num_steps: int | None = None
    device: str | None = None
    dtype: str | None = None
    offload: str = "auto"
    quantize: str | None = None
    compile: bool | None = None
    threads: int | None = None
    num_references: int = 0

    def to_json(self) -> dict[str, Any]:
        """For a worker, and for the report."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """What to_json gave."""
        return cls(**values)


def new_prompt(number: int) -> str:
    """The prompt of a call, unlike that of every other number."""
    return f"{SUBJECTS[number % len(SUBJECTS)]}, number {number + 1}"
