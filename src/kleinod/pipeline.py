"""Prompt and reference images -> steps -> picture: the story of one request.

text encoder -> autoencoder.encode -> noise -> transformer x steps -> autoencoder.decode.
Knows components only through Residents; assembly.py makes a pipeline from files.
"""

import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kleinod import images, latents, sampling
from kleinod.catalog import ModelInfo
from kleinod.embeddings import EmbeddingCache
from kleinod.errors import InputError, NumericalError
from kleinod.memory import memory_told
from kleinod.models.tokenizer import Tokenizer
from kleinod.painting import Conditions, Painting, Shape, advance
from kleinod.request import Request, check_size
from kleinod.residency import Residents

MIN_SIDE_PIXELS = 64
# fewer steps than this are for a distilled model
MIN_BASE_STEPS = 10

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One finished step: latents (b, 128, h, w) after it."""

    index: int
    num_steps: int
    sigma: float
    latents: Tensor


@dataclass(frozen=True)
class GeneratedImage:
    """A picture and the seed that repeats it."""

    image: Image.Image
    seed: int


@dataclass(frozen=True)
class Result:
    """Pictures and the seconds they took."""

    images: list[GeneratedImage]
    timings: dict[str, float]


@dataclass(frozen=True)
class Plan:
    """A settled request, its references as the model takes them, and the shape of its passes."""

    request: Request
    references: tuple[Image.Image, ...]
    shape: Shape

    @property
    def seeds(self) -> list[int]:
        """One seed per picture: prompts in order, num_images of each."""
        first, request = self.request.seed or 0, self.request
        return [first + i for i in range(len(request.prompt) * request.num_images)]

    @property
    def prompts(self) -> list[str]:
        """Every text that has to be encoded, each once."""
        unwanted = [self.request.negative_prompt] if self.shape.is_guided else []
        return list(dict.fromkeys([*self.request.prompt, *unwanted]))


@dataclass
class Pipeline:
    """A model on a device, ready to paint."""

    residents: Residents
    tokenizer: Tokenizer
    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    quantization: str | None = None
    is_compiled: bool = False
    _cache: EmbeddingCache = field(default_factory=EmbeddingCache, repr=False)
    # of the last request: a series of pictures is warned of once, and nothing piles up
    _doubts: tuple[str, ...] = field(default=(), repr=False)

    def generate(self, prompt: str | tuple[str, ...], **fields: Any) -> Result:  # noqa: ANN401
        """Pictures for Request's fields. Raises InputError, NumericalError."""
        start = time.perf_counter()
        plan = self.planned(Request(prompt, **fields))
        timings: dict[str, float] = {}
        last = deque(self._painted(plan, timings), maxlen=1).pop()
        decoding = time.perf_counter()
        pictures = self.decode(last.latents)
        end = time.perf_counter()
        timings |= {"decode_seconds": end - decoding, "total_seconds": end - start}
        made = zip(pictures, plan.seeds, strict=True)
        return Result([GeneratedImage(image, seed) for image, seed in made], timings)

    def steps(self, request: Request, *, timings: dict[str, float] | None = None) -> Iterator[Step]:
        """Each step of a request with its latents; stop iterating to cancel.

        After the last step, timings holds the seconds of each stage up to it.
        """
        yield from self._painted(self.planned(request), {} if timings is None else timings)

    def _painted(self, plan: Plan, timings: dict[str, float]) -> Iterator[Step]:
        size = f"{16 * plan.shape.width}x{16 * plan.shape.height}"
        with memory_told(lambda: self._remedies(f"{len(plan.seeds)} of {size}")):
            yield from self._stages(plan, timings)

    # as a decorator: the mode is on while a step is computed, not in the caller's loop
    @torch.inference_mode()
    def _stages(self, plan: Plan, timings: dict[str, float]) -> Iterator[Step]:
        start = time.perf_counter()
        texts = self.encode_prompts(plan.prompts)
        encoding = time.perf_counter()
        references = self.encode_references(plan.references)
        denoising = time.perf_counter()
        paintings = [self.painting(plan, i, texts, references) for i in range(len(plan.seeds))]
        for index in range(1, paintings[0].num_steps + 1):
            sigma = float(paintings[0].conditions.sigmas[index - 1])
            self.advance(paintings)
            if not all(painting.is_finite for painting in paintings):
                raise not_finite(index)
            grids = torch.cat([painting.latents for painting in paintings])
            yield Step(index, paintings[0].num_steps, sigma, grids)
        timings["text_seconds"] = encoding - start
        timings["encode_seconds"] = denoising - encoding
        timings["denoise_seconds"] = time.perf_counter() - denoising

    def settled(self, request: Request) -> Request:
        """The request with every default filled in and its references read. Raises InputError."""
        request.validate()
        info, guidance = self.info, request.guidance_scale
        _check_guidance(request, info)
        prompts = (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)
        references = tuple(images.load_image(source) for source in request.reference_images)
        size = (info.default_size, info.default_size)
        if references:
            first = images.prepare_reference(references[0], max_pixels=info.default_size**2)
            size = max(first.width, MIN_SIDE_PIXELS), max(first.height, MIN_SIDE_PIXELS)
        width, height = request.width or size[0], request.height or size[1]
        if (width, height) != size:
            check_size(width, height)
        return replace(
            request,
            prompt=prompts,
            reference_images=references,
            width=width,
            height=height,
            num_inference_steps=request.num_inference_steps or info.num_inference_steps,
            guidance_scale=info.guidance_scale if guidance is None else guidance,
            seed=secrets.randbelow(2**31) if request.seed is None else request.seed,
        )

    def planned(self, request: Request) -> Plan:
        """The settled request with small references; no model is used. Raises InputError."""
        settled = self.settled(request)
        told, self._doubts = self._doubts, tuple(_doubts(settled, self.info))
        for doubt in self._doubts:
            if doubt not in told:
                _log.warning("%s", doubt)
        assert settled.height and settled.width
        references = tuple(
            images.prepare_reference(reference, max_pixels=self.info.default_size**2)
            for reference in settled.reference_images
        )
        shape = Shape(
            height=settled.height // 16,
            width=settled.width // 16,
            reference_grids=tuple((image.height // 16, image.width // 16) for image in references),
            num_text_tokens=self.tokenizer.max_length,
            is_guided=(settled.guidance_scale or 1.0) > 1,
        )
        # the large ones need not wait with the request
        return Plan(replace(settled, reference_images=()), references, shape)

    def _remedies(self, pictures: str) -> str:
        """What takes less memory than what was tried."""
        remedies = [f"paint fewer or smaller pictures at once than {pictures}"]
        if self.residents.policy == "all":
            remedies.append("set residency to sequential")
        if self.quantization is None:
            remedies.append("take an FP8 file, or set quantize to int8")
        return ", ".join(remedies)

    @torch.inference_mode()
    def encode_prompts(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings (1, t, context) by prompt, those not known encoded together."""
        known = self._cache.embeds(prompts, self._encode)
        return {prompt: embeds.to(self.device) for prompt, embeds in known.items()}

    def _encode(self, prompts: list[str]) -> Tensor:
        ids, mask = self.tokenizer.encode(prompts)
        text_encoder = self.residents.use("text_encoder")
        embeds: Tensor = text_encoder(ids.to(self.device), mask.to(self.device))
        return embeds

    @torch.inference_mode()
    def encode_references(self, references: Sequence[Image.Image]) -> Tensor:
        """Tokens (1, n, 128) of a plan's references, one after the other."""
        tokens = [torch.empty(1, 0, 128, dtype=self.dtype, device=self.device)]
        for reference in references:
            pixels = images.to_tensor(reference).to(self.device, self.dtype)
            encoded = self.residents.use("autoencoder").encode(pixels)
            tokens.append(latents.latents_to_tokens(encoded))
        return torch.cat(tokens, dim=1)

    @torch.inference_mode()
    def painting(
        self, plan: Plan, picture: int, texts: Mapping[str, Tensor], references: Tensor
    ) -> Painting:
        """A plan's picture, counted from 0, as noise; texts and references as encoded."""
        request, shape = plan.request, plan.shape
        prompts = [request.prompt[picture // request.num_images]]
        prompts += [request.negative_prompt] if shape.is_guided else []
        conditions = Conditions(
            texts=tuple(texts[prompt] for prompt in prompts),
            reference_tokens=references,
            sigmas=sampling.sigmas(request.num_inference_steps or 1, shape.height * shape.width),
            guidance_scale=request.guidance_scale or 1.0,
        )
        noise = latents.sample_noise([plan.seeds[picture]], shape.height * 16, shape.width * 16)
        tokens = latents.latents_to_tokens(noise.to(self.device, self.dtype))
        return Painting(shape, conditions, tokens)

    @torch.inference_mode()
    def advance(self, paintings: Sequence[Painting]) -> None:
        """One step of each of several paintings of one shape, in one pass."""
        advance(paintings, self.residents.use("transformer"))

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (b, 128, h, w), normalised as a step gives them."""
        b, _, h, w = latents.shape
        with memory_told(lambda: self._remedies(f"{b} of {16 * w}x{16 * h}")):
            autoencoder = self.residents.use("autoencoder")
            return images.to_images(autoencoder.decode(latents.to(self.device, self.dtype)))


def not_finite(index: int) -> NumericalError:
    """What to say of a picture that step `index` spoiled."""
    return NumericalError(f"step {index}: latents are not finite; try float32")


def _check_guidance(request: Request, info: ModelInfo) -> None:
    guidance = info.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if info.is_distilled and guidance != 1.0:
        raise InputError(f"guidance_scale: {guidance} on a distilled model; leave it out or 1.0")
    if request.negative_prompt and guidance <= 1.0:
        raise InputError(
            f"negative_prompt: {request.negative_prompt!r} has no effect without guidance; "
            "leave it out, or take a base model"
        )


def _doubts(request: Request, info: ModelInfo) -> Iterator[str]:
    """One line for each way in which a model is run as it was not trained."""
    steps, guidance = request.num_inference_steps or 1, request.guidance_scale or 1.0
    if not info.is_distilled and (steps < MIN_BASE_STEPS or guidance == 1.0):
        yield (
            f"{info.name} is a base model: {steps} steps at guidance {guidance} are a distilled "
            f"model's and give a poor picture; leave both out ({info.num_inference_steps} steps, "
            f"guidance {info.guidance_scale})"
        )
    if request.reference_images and "kv" in re.split(r"[^a-z0-9]+", info.name.lower()):
        yield (
            f"{info.name} was trained to read references once, as if finished; here they are read "
            "at every step, and edits may be poor: take klein-9b for edits"
        )
