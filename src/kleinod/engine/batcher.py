"""What is under way on the device: groups of pictures of one shape, and what is to be decoded.

Only the engine's thread comes here. Groups take turns, a pass each; a new group goes first.
"""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

from PIL import Image

from kleinod.diffusion import preview
from kleinod.diffusion.denoising import Shape
from kleinod.diffusion.sampler import Sampler
from kleinod.engine import stages
from kleinod.engine.engine_options import EngineOptions, EngineStats
from kleinod.engine.events import Cancelled, Event, Failed, Finished, Progress
from kleinod.engine.jobs import Job, Picture

Item = TypeVar("Item", Job, Picture)

_log = logging.getLogger(__name__)


class Bench:
    """Pictures under way. on_end is told of every job that ends."""

    def __init__(
        self, sampler: Sampler, options: EngineOptions, on_end: Callable[[Job], None]
    ) -> None:
        self.sampler, self.options, self._on_end = sampler, options, on_end
        self.stats = EngineStats()
        self._groups: dict[Shape, list[Picture]] = {}
        self._painted: list[Picture] = []
        self._max_tokens = options.batch_tokens(sampler.device.type)
        self._preview: preview.PreviewMap | None = None
        self._has_no_preview = False
        # one component at a time: nobody joins while others are painted, decoding waits for all
        self._in_rounds = sampler.residents.policy == "model"

    @property
    def is_busy(self) -> bool:
        """Whether anything is under way."""
        return bool(self._groups or self._painted)

    @property
    def num_places(self) -> int:
        """How many more pictures may begin."""
        if self._in_rounds and self.is_busy:
            return 0
        most = self.options.max_running if self.options.is_batching else 1
        return most - len(self._pictures())

    def room(self, shape: Shape) -> int:
        """How many more pictures of a shape may begin."""
        return self._limit(shape) - len(self._groups.get(shape, ()))

    def next_shape(self, joining: Sequence[Shape]) -> Shape | None:
        """The next pass's shape: a new one of those that join, else the one whose turn it is."""
        new = (shape for shape in joining if shape not in self._groups)
        return next(new, next(iter(self._groups), None))

    def begin(self, pictures: Sequence[Picture]) -> None:
        """Encode what the pictures' jobs need, and lay them beside those of their shape."""
        if not pictures:
            return
        jobs = list(dict.fromkeys(picture.job for picture in pictures))
        new = [job for job in jobs if job.texts is None and not job.is_cancelled]
        self._staged("text", new, stages.encode_texts)
        for job in [job for job in new if not job.is_over]:
            # one after the other: references of several jobs have several sizes
            self._staged("encode", [job], stages.encode_references)
        wanted = [p for p in pictures if not (p.job.is_over or p.job.is_cancelled)]
        self._staged("encode", wanted, stages.begin)
        if any(job.with_previews for job in new):
            self._fit_preview()
        ready = [picture for picture in wanted if picture.painting is not None]
        if ready:
            shape = ready[0].job.shape
            group = self._groups.pop(shape, []) + ready
            self._groups = {shape: group, **self._groups}
        self._count()

    def step(self) -> None:
        """One pass of the group whose turn it is."""
        shape = next(iter(self._groups), None)
        if shape is None:
            return
        group = self._groups.pop(shape)
        pictures = group[: self._limit(shape)]
        # the others' turn is next
        self._groups[shape] = group
        self._staged("denoise", pictures, stages.advance, on_split=partial(self._split, shape))
        alive = [picture for picture in pictures if not picture.job.is_over]
        for picture in alive:
            if picture.painted.is_finite:
                picture.job.steps_done += 1
            else:
                self._fail(picture.job, self.sampler.not_finite(picture.painted.index))
        alive = [picture for picture in alive if not picture.job.is_over]
        self.stats.last_batch = len(pictures)
        self.stats.passes_total += 1
        self.stats.steps_total += len(alive)
        self._report(alive)
        self._move_painted(shape)

    def decode(self) -> None:
        """Every picture whose steps are done; under `model` only when all are."""
        while self._painted and not (self._in_rounds and self._groups):
            pictures = stages.decodable(self._painted)
            self._painted = [p for p in self._painted if p not in pictures]
            wanted = [p for p in pictures if not (p.job.is_over or p.job.is_cancelled)]
            self._staged("decode", wanted, stages.decode)
            for job in dict.fromkeys(picture.job for picture in wanted):
                if len(job.images) == job.num_pictures and not job.is_over:
                    self._finish(job)
        self._count()

    def end(self, job: Job, event: Event) -> None:
        """Let go of a job's pictures and tell its end; nothing if it has ended already."""
        if job.is_over:
            return
        job.is_over = True
        self._on_end(job)
        kept = {shape: [p for p in g if p.job is not job] for shape, g in self._groups.items()}
        self._groups = {shape: group for shape, group in kept.items() if group}
        self._painted = [picture for picture in self._painted if picture.job is not job]
        job.release()
        self.stats.failures_total += isinstance(event, Failed)
        self.stats.cancelled_total += isinstance(event, Cancelled)
        self._count()
        job.subscriber.tell(event)

    def _finish(self, job: Job) -> None:
        job.timings["total_seconds"] = time.perf_counter() - job.submitted
        self.stats.pictures_total += job.num_pictures
        self.end(job, Finished(job.generated, job.timings))

    def _fail(self, job: Job, error: Exception) -> None:
        self.end(job, stages.failed(error, job))

    def _staged(
        self,
        stage: str,
        items: Sequence[Item],
        work: Callable[[Sampler, Sequence[Item]], None],
        *,
        on_split: stages.OnSplit | None = None,
    ) -> None:
        """Do a stage's work on all items, clock it for each job, end the jobs that it fails for."""
        if not items:
            return
        start = time.perf_counter()
        failures = stages.together(items, partial(work, self.sampler), on_split=on_split)
        seconds = time.perf_counter() - start
        self.stats.stage_seconds[stage] += seconds
        for job in dict.fromkeys(_job(item) for item in items):
            job.clock(stage, seconds)
        for item, error in failures:
            self._fail(_job(item), error)

    def _split(self, shape: Shape, error: Exception, count: int) -> None:
        """A pass failed for several: if for want of memory, later ones are smaller."""
        if not stages.is_out_of_memory(error):
            return
        self._max_tokens = min(self._max_tokens, shape.num_tokens * (count // 2))
        _log.warning(
            "out of memory with %d pictures of %d tokens; from now on %d tokens share a pass",
            *(count, shape.num_tokens, self._max_tokens),
        )

    def _report(self, pictures: Sequence[Picture]) -> None:
        """Progress of each job in a pass, with a preview of its first picture that goes on."""
        shown: dict[Job, Picture] = {}
        for picture in pictures:
            if picture.job not in shown or shown[picture.job].painted.is_finished:
                shown[picture.job] = picture
        for job, picture in shown.items():
            image = self._previewed(picture)
            job.subscriber.tell(Progress(job.steps_done, job.num_steps, image, picture.index))

    def _previewed(self, picture: Picture) -> Image.Image | None:
        """None where nobody asked, and after the last step: the picture itself comes at once."""
        if self._preview is None or not picture.job.with_previews or picture.painted.is_finished:
            return None
        start = time.perf_counter()
        image = self._preview.picture(picture.painted.clean_latents)
        self.stats.stage_seconds["preview"] += time.perf_counter() - start
        return image

    def _fit_preview(self) -> None:
        """Once, when the first who wants previews begins; never an obstacle to a picture."""
        if self._preview is not None or self._has_no_preview:
            return
        start = time.perf_counter()
        try:
            self._preview = preview.fitted(self.sampler.encode_references)
        except Exception:  # the engine's edge
            self._has_no_preview = True
            _log.exception("no preview for this autoencoder")
        self.stats.stage_seconds["preview"] += time.perf_counter() - start

    def _move_painted(self, shape: Shape) -> None:
        group = self._groups.pop(shape, [])
        self._painted += [picture for picture in group if picture.painted.is_finished]
        left = [picture for picture in group if not picture.painted.is_finished]
        if left:
            self._groups[shape] = left

    def _limit(self, shape: Shape) -> int:
        """The most pictures of a shape in a pass."""
        if not self.options.is_batching:
            return 1
        return max(1, min(self.options.max_batch, self._max_tokens // shape.num_tokens))

    def _pictures(self) -> list[Picture]:
        return [picture for group in self._groups.values() for picture in group] + self._painted

    def _count(self) -> None:
        self.stats.running = len(self._pictures())


def _job(item: Job | Picture) -> Job:
    return item if isinstance(item, Job) else item.job
