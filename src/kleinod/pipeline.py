"""Prompt and reference images -> steps -> picture: the story of one request.

text encoder -> autoencoder.encode -> noise -> transformer x steps -> autoencoder.decode.
Knows components only through Residents; assembly.py makes a pipeline from files.
"""

import logging
import re
import secrets
import time
from collections import deque
from collections.abc import Iterator
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
class _Conditions:
    """What every step sees: text for each pass, reference tokens and their position ids."""

    embeds: list[Tensor]
    reference_tokens: Tensor
    reference_ids: Tensor


@dataclass
class Pipeline:
    """A model on a device, ready to paint."""

    residents: Residents
    tokenizer: Tokenizer
    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    quantization: str | None = None
    _cache: EmbeddingCache = field(default_factory=EmbeddingCache, repr=False)

    def generate(self, prompt: str | tuple[str, ...], **fields: Any) -> Result:  # noqa: ANN401
        """Pictures for Request's fields. Raises InputError, NumericalError."""
        start = time.perf_counter()
        request = self.settled(Request(prompt, **fields))
        timings: dict[str, float] = {}
        last = deque(self._painted(request, timings), maxlen=1).pop()
        decoding = time.perf_counter()
        pictures = self.decode(last.latents)
        end = time.perf_counter()
        timings |= {"decode_seconds": end - decoding, "total_seconds": end - start}
        made = zip(pictures, _seeds(request), strict=True)
        return Result([GeneratedImage(image, seed) for image, seed in made], timings)

    def steps(self, request: Request, *, timings: dict[str, float] | None = None) -> Iterator[Step]:
        """Each step of a request with its latents; stop iterating to cancel.

        After the last step, timings holds the seconds of each stage up to it.
        """
        yield from self._painted(self.settled(request), {} if timings is None else timings)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Pictures of latents (b, 128, h, w), normalised as a step gives them."""
        b, _, h, w = latents.shape
        with memory_told(lambda: self._remedies(f"{b} of {16 * w}x{16 * h}")):
            autoencoder = self.residents.use("autoencoder")
            return images.to_images(autoencoder.decode(latents.to(self.device, self.dtype)))

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

    def _remedies(self, pictures: str) -> str:
        """What takes less memory than what was tried."""
        remedies = [f"paint fewer or smaller pictures at once than {pictures}"]
        if self.residents.policy == "all":
            remedies.append("set residency to sequential")
        if self.quantization is None:
            remedies.append("take an FP8 file, or set quantize to int8")
        return ", ".join(remedies)

    def _painted(self, request: Request, timings: dict[str, float]) -> Iterator[Step]:
        pictures = f"{len(_seeds(request))} of {request.width}x{request.height}"
        with memory_told(lambda: self._remedies(pictures)):
            yield from self._stages(request, timings)

    # as a decorator: the mode is on while a step is computed, not in the caller's loop
    @torch.inference_mode()
    def _stages(self, request: Request, timings: dict[str, float]) -> Iterator[Step]:
        start = time.perf_counter()
        _warn_of_variant(request, self.info)
        embeds = self._embeds(request)
        encoding = time.perf_counter()
        tokens, ids = self._references(request)
        denoising = time.perf_counter()
        yield from self._denoise(request, _Conditions(embeds, tokens, ids))
        timings["text_seconds"] = encoding - start
        timings["encode_seconds"] = denoising - encoding
        timings["denoise_seconds"] = time.perf_counter() - denoising

    def _embeds(self, request: Request) -> list[Tensor]:
        groups = [list(request.prompt)]
        if (request.guidance_scale or 1.0) > 1:
            groups.append([request.negative_prompt] * len(request.prompt))
        known = self._cache.embeds({p for group in groups for p in group}, self._encode)
        return [
            torch.cat([known[p] for p in group])
            .to(self.device)
            .repeat_interleave(request.num_images, dim=0)
            for group in groups
        ]

    def _encode(self, prompts: list[str]) -> Tensor:
        ids, mask = self.tokenizer.encode(prompts)
        text_encoder = self.residents.use("text_encoder")
        embeds: Tensor = text_encoder(ids.to(self.device), mask.to(self.device))
        return embeds

    def _references(self, request: Request) -> tuple[Tensor, Tensor]:
        batch = len(_seeds(request))
        tokens = [torch.empty(batch, 0, 128, dtype=self.dtype, device=self.device)]
        ids = [torch.empty(0, 4, dtype=torch.long)]
        for index, reference in enumerate(request.reference_images, start=1):
            small = images.prepare_reference(reference, max_pixels=self.info.default_size**2)
            pixels = images.to_tensor(small).to(self.device, self.dtype)
            encoded = self.residents.use("autoencoder").encode(pixels)
            tokens.append(latents.latents_to_tokens(encoded).expand(batch, -1, -1))
            ids.append(latents.image_position_ids(encoded.shape[2], encoded.shape[3], 10 * index))
        return torch.cat(tokens, dim=1), torch.cat(ids)

    def _denoise(self, request: Request, conditions: _Conditions) -> Iterator[Step]:
        steps, height, width = _grid(request)
        schedule = sampling.sigmas(steps, height * width)
        noise = latents.sample_noise(_seeds(request), height * 16, width * 16)
        x = latents.latents_to_tokens(noise.to(self.device, self.dtype))
        ids = torch.cat((latents.image_position_ids(height, width), conditions.reference_ids))
        for index in range(steps):
            times = sampling.timestep(schedule[index], self.dtype).expand(len(x)).to(self.device)
            joined = torch.cat((x, conditions.reference_tokens), dim=1)
            velocities = [
                self._velocity(joined, times, text, ids)[:, : x.shape[1]]
                for text in conditions.embeds
            ]
            velocity = sampling.guided(velocities, request.guidance_scale or 1.0)
            x = sampling.euler_step(x, velocity, schedule[index], schedule[index + 1])
            if not torch.isfinite(x).all():
                raise NumericalError(f"step {index + 1}: latents are not finite; try float32")
            grid = latents.tokens_to_latents(x, height, width)
            yield Step(index + 1, steps, float(schedule[index]), grid)

    def _velocity(self, tokens: Tensor, times: Tensor, text: Tensor, ids: Tensor) -> Tensor:
        text_ids = latents.text_position_ids(text.shape[1])
        velocity: Tensor = self.residents.use("transformer")(tokens, times, text, ids, text_ids)
        return velocity


def _check_guidance(request: Request, info: ModelInfo) -> None:
    guidance = info.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if info.is_distilled and guidance != 1.0:
        raise InputError(f"guidance_scale: {guidance} on a distilled model; leave it out or 1.0")
    if request.negative_prompt and guidance <= 1.0:
        raise InputError(
            f"negative_prompt: {request.negative_prompt!r} has no effect without guidance; "
            "leave it out, or take a base model"
        )


def _warn_of_variant(request: Request, info: ModelInfo) -> None:
    """One line where a model is run as it was not trained."""
    steps, guidance = request.num_inference_steps or 1, request.guidance_scale or 1.0
    if not info.is_distilled and (steps < MIN_BASE_STEPS or guidance == 1.0):
        _log.warning(
            "%s is a base model: %d steps at guidance %s are a distilled model's and give a poor "
            "picture; leave both out (%d steps, guidance %s)",
            *(info.name, steps, guidance, info.num_inference_steps, info.guidance_scale),
        )
    if request.reference_images and "kv" in re.split(r"[^a-z0-9]+", info.name.lower()):
        _log.warning(
            "%s was trained to read references once, as if finished; here they are read at every "
            "step, and edits may be poor: take klein-9b for edits",
            info.name,
        )


def _seeds(request: Request) -> list[int]:
    """One seed per picture: prompts in order, num_images of each."""
    first = request.seed or 0
    return [first + i for i in range(len(request.prompt) * request.num_images)]


def _grid(request: Request) -> tuple[int, int, int]:
    """Steps, latent rows and latent columns of a settled request."""
    assert request.num_inference_steps and request.height and request.width
    return request.num_inference_steps, request.height // 16, request.width // 16
