"""What the engine has the device do: encode, one pass, decode; each for several at once.

Work that fails is done again in halves, down to the one at fault: so memory that does not reach
for eight may reach for four, and what one request spoils is spoiled for it alone.
"""

import logging
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

from kleinod.diffusion.denoising import Shape
from kleinod.diffusion.sampler import Sampler
from kleinod.engine.events import Failed
from kleinod.engine.jobs import Job, Picture
from kleinod.errors import InputError, KleinodError

# What is decoded at once. More is slower on the CPU (docs/log/2026-11-25-engine-load.md), and the
# published decoder needs 0.66 GB for each such piece.
DECODE_PIXELS = 256 * 256
_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory")

_log = logging.getLogger(__name__)
T = TypeVar("T")
OnSplit = Callable[[Exception, int], None]


def together(
    items: Sequence[T], work: Callable[[Sequence[T]], None], *, on_split: OnSplit | None = None
) -> list[tuple[T, Exception]]:
    """Do work on all items at once; the items that it fails for even alone, and why.

    on_split is told of each failure of more than one, with their number.
    """
    failure = _failure(items, work)
    if failure is None:
        return []
    if len(items) == 1:
        return [(items[0], failure)]
    if on_split is not None:
        on_split(failure, len(items))
    half = len(items) // 2
    first = together(items[:half], work, on_split=on_split)
    return first + together(items[half:], work, on_split=on_split)


def _failure(items: Sequence[T], work: Callable[[Sequence[T]], None]) -> Exception | None:
    try:
        work(items)
    except Exception as error:  # the engine's edge: becomes an event and a log line
        # the frames would keep the tensors that did not fit
        failure = error.with_traceback(None)
        failure.__context__ = failure.__cause__ = None
        if not isinstance(error, KleinodError) and not is_out_of_memory(error):
            _log.exception("failed for %d", len(items))
    else:
        return None
    if torch.cuda.is_available() and is_out_of_memory(failure):
        torch.cuda.empty_cache()
    return failure


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the device, or the machine, had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


def failed(error: Exception, job: Job) -> Failed:
    """What to tell of an error."""
    if isinstance(error, KleinodError):
        return Failed(str(error), is_users_fault=isinstance(error, InputError))
    if is_out_of_memory(error):
        return Failed(f"memory: {_size(job.shape)} needs more than is free; {_remedy(job.shape)}")
    first_line = (str(error).splitlines() or [""])[0]
    name = type(error).__name__
    return Failed(f"internal: {name}: {first_line}; the log has the rest, please report it")


def _size(shape: Shape) -> str:
    size = f"{shape.width * 16}x{shape.height * 16}"
    count = len(shape.reference_grids)
    return f"{size} with {count} reference{'s' * (count > 1)}" if count else size


def _remedy(shape: Shape) -> str:
    fewer = " or fewer references" if shape.reference_grids else ""
    return f"ask for a smaller picture{fewer}, or load the model with offload model"


def encode_texts(sampler: Sampler, jobs: Sequence[Job]) -> None:
    """Each job's prompts; equal ones of several jobs once, new ones in one batch."""
    texts = sampler.encode_prompts({prompt for job in jobs for prompt in job.request.texts})
    for job in jobs:
        job.texts = {prompt: texts[prompt] for prompt in job.request.texts}


def encode_references(sampler: Sampler, jobs: Sequence[Job]) -> None:
    """Each job's references."""
    for job in jobs:
        job.reference_tokens = sampler.encode_references(job.request.references)


def begin(sampler: Sampler, pictures: Sequence[Picture]) -> None:
    """Noise and conditions of pictures whose jobs are encoded."""
    for picture in pictures:
        job = picture.job
        assert job.texts is not None and job.reference_tokens is not None
        picture.painting = sampler.start(
            job.request, picture.index, job.texts, job.reference_tokens
        )


def advance(sampler: Sampler, pictures: Sequence[Picture]) -> None:
    """One pass: a step of each."""
    sampler.advance([picture.painted for picture in pictures])


def decode(sampler: Sampler, pictures: Sequence[Picture]) -> None:
    """Pictures of equal shape, laid into their jobs."""
    with torch.inference_mode():
        latents = torch.cat([picture.painted.latents for picture in pictures])
    for picture, image in zip(pictures, sampler.decode(latents), strict=True):
        picture.job.images[picture.index] = image


def decodable(pictures: Sequence[Picture]) -> list[Picture]:
    """The first and those of its size that are decoded along with it."""
    first = pictures[0].job.shape
    size = first.height, first.width
    alike = [p for p in pictures if (p.job.shape.height, p.job.shape.width) == size]
    return alike[: max(1, DECODE_PIXELS // (size[0] * size[1] * 256))]
