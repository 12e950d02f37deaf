"""A request inside the engine, its pictures under way, and the ticket its owner holds."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from PIL import Image
from torch import Tensor

from kleinod.diffusion.denoising import Painting, Shape
from kleinod.diffusion.sampler import SampledImage
from kleinod.engine.events import Subscriber
from kleinod.request import ResolvedRequest


@dataclass(eq=False)
class Job:
    """A resolved request: who asked, what was begun, what is done."""

    request: ResolvedRequest
    shape: Shape
    key: str
    subscriber: Subscriber
    with_previews: bool = False
    submitted: float = field(default_factory=time.perf_counter)
    num_begun: int = 0
    steps_done: int = 0
    texts: dict[str, Tensor] | None = None
    reference_tokens: Tensor | None = None
    images: dict[int, Image.Image] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    is_cancelled: bool = False
    is_over: bool = False

    @property
    def num_pictures(self) -> int:
        """Pictures asked for."""
        return len(self.request.seeds)

    @property
    def num_waiting(self) -> int:
        """Pictures not begun."""
        return self.num_pictures - self.num_begun

    @property
    def num_steps(self) -> int:
        """Steps of all its pictures."""
        return self.num_pictures * self.request.num_inference_steps

    @property
    def work(self) -> int:
        """What one of its pictures costs: tokens, times steps, times passes a step."""
        steps = self.request.num_inference_steps
        return self.shape.num_tokens * steps * (2 if self.shape.is_guided else 1)

    @property
    def generated(self) -> list[SampledImage]:
        """Its pictures in order; all must be done."""
        seeds = enumerate(self.request.seeds)
        return [SampledImage(self.images[index], seed) for index, seed in seeds]

    def release(self) -> None:
        """Let go of everything large: tickets may be kept for long."""
        self.texts = self.reference_tokens = None
        self.images = {}
        self.request = replace(self.request, references=())

    def clock(self, stage: str, seconds: float) -> None:
        """Add to a stage's seconds."""
        name = f"{stage}_seconds"
        self.timings[name] = self.timings.get(name, 0.0) + seconds


@dataclass(eq=False)
class Picture:
    """One picture under way, counted from 0 within its job."""

    job: Job
    index: int
    painting: Painting | None = None

    @property
    def painted(self) -> Painting:
        """Its painting, once begun."""
        assert self.painting is not None
        return self.painting


class Ticket:
    """A request that was accepted; what its owner can do with it."""

    def __init__(self, job: Job, cancel: Callable[[Job], None]) -> None:
        self._job, self._cancel = job, cancel

    def cancel(self) -> None:
        """Free its place at the next step; from any thread, and no mistake if it is over."""
        self._cancel(self._job)

    @property
    def seeds(self) -> list[int]:
        """The seeds of its pictures, chosen by chance if none was asked for."""
        return list(self._job.request.seeds)
