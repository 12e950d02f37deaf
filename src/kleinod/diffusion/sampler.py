"""Prompt and reference images -> denoising steps -> pictures: the bare sampler.

text encoder -> autoencoder.encode -> noise -> transformer x steps -> autoencoder.decode.
It moderates, watermarks and signs nothing: `kleinod.load` gives the pipeline around it that does
(session/). Knows components only through Residents; assembly.py makes a sampler from files.
"""

import logging
import secrets
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kleinod import images
from kleinod.catalog import ModelInfo
from kleinod.diffusion import latents, sampling
from kleinod.diffusion.denoising import Conditions, Painting, Shape, advance
from kleinod.diffusion.prompt_cache import EmbeddingCache
from kleinod.errors import InputError, NumericalError
from kleinod.images import OpenedReference
from kleinod.keywords import check_keywords
from kleinod.memory import memory_told
from kleinod.models.autoencoder import NO_ENCODER
from kleinod.models.tokenizer import Tokenizer
from kleinod.request import MIN_SIDE_PIXELS, ImageRequest, ResolvedRequest, check_size
from kleinod.request_warnings import (
    PromptLength,
    RequestWarning,
    request_warnings,
    setting_warnings,
)
from kleinod.runtime.offload import Residents
from kleinod.weights.finiteness import cause_of_not_finite

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Step:
    """One denoising step, counted from 1, and what it left: latents (b, 128, h, w).

    clean_latents: the finished latents as the last velocity predicts them.
    """

    index: int
    num_steps: int
    sigma: float
    latents: Tensor = field(repr=False)
    clean_latents: Tensor = field(repr=False)


@dataclass(frozen=True)
class SampledImage:
    """A bare picture and the seed that repeats it."""

    image: Image.Image
    seed: int


@dataclass(frozen=True)
class SamplerResult:
    """Bare pictures and the seconds of each stage."""

    images: list[SampledImage]
    timings: dict[str, float]


@dataclass
class Sampler:
    """A model on a device, ready to sample."""

    residents: Residents
    tokenizer: Tokenizer
    info: ModelInfo
    device: torch.device
    dtype: torch.dtype
    quantization: str | None = None
    is_compiled: bool = False
    has_encoder: bool = True
    embedding_cache: EmbeddingCache = field(default_factory=EmbeddingCache, repr=False)
    # of the last request: a series of pictures is warned of once, and nothing piles up
    _warnings: tuple[RequestWarning, ...] = field(default=(), init=False, repr=False)

    def __repr__(self) -> str:
        dtype = str(self.dtype).removeprefix("torch.")
        return f"Sampler({self.info.name!r}, device={str(self.device)!r}, dtype={dtype!r})"

    @check_keywords
    def generate(
        self,
        prompt: str | tuple[str, ...],
        *,
        reference_images: Any = (),  # noqa: ANN401 - as in ImageRequest
        width: int | None = None,
        height: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        negative_prompt: str = "",
        seed: int | None = None,
        num_images: int = 1,
    ) -> SamplerResult:
        """Bare pictures, neither moderated nor signed; the fields are `ImageRequest`'s.

        Raises InputError, NumericalError, MemoryLimitError.
        """
        start = time.perf_counter()
        request = ImageRequest(
            prompt,
            reference_images,
            width=width,
            height=height,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            negative_prompt=negative_prompt,
            seed=seed,
            num_images=num_images,
        )
        resolved, timings = self._resolve_and_log(request), dict[str, float]()
        last = deque(self.steps(resolved, timings=timings), maxlen=1).pop()
        decoding = time.perf_counter()
        pictures = self.decode(last.latents)
        end = time.perf_counter()
        timings |= {"decode_seconds": end - decoding, "total_seconds": end - start}
        pairs = zip(pictures, resolved.seeds, strict=True)
        return SamplerResult([SampledImage(image, seed) for image, seed in pairs], timings)

    def resolve(self, request: ImageRequest | ResolvedRequest) -> ResolvedRequest:
        """Fill in every default, draw the seed, decode and prepare the references, each once.

        No model is used. Raises InputError.
        """
        if isinstance(request, ResolvedRequest):
            return request
        request.validate()
        info, guidance = self.info, request.guidance_scale
        if request.references and not self.has_encoder:
            raise InputError(NO_ENCODER)
        _check_guidance(request, info)
        references = tuple(
            images.prepare_reference(_decoded(source), max_pixels=info.default_size**2)
            for source in request.references
        )
        width, height = _size(request, references, info)
        return ResolvedRequest(
            prompts=request.prompts,
            references=references,
            width=width,
            height=height,
            num_inference_steps=int(request.num_inference_steps or info.num_inference_steps),
            guidance_scale=info.guidance_scale if guidance is None else float(guidance),
            negative_prompt=request.negative_prompt,
            seed=secrets.randbelow(2**31) if request.seed is None else int(request.seed),
            num_images=int(request.num_images),
        )

    def request_warnings(
        self, request: ResolvedRequest, *, list_command: str | None = None
    ) -> tuple[RequestWarning, ...]:
        """What the model was not trained for; list_command: as in `request_warnings`."""
        length = PromptLength(self.tokenizer.count, self.tokenizer.max_length)
        return request_warnings(request, self.info, length, list_command=list_command)

    def _resolve_and_log(self, request: ImageRequest | ResolvedRequest) -> ResolvedRequest:
        """The same as `resolve`, and a line in the log for settings that the model is not for."""
        if isinstance(request, ResolvedRequest):
            return request
        resolved = self.resolve(request)
        logged, self._warnings = self._warnings, tuple(setting_warnings(resolved, self.info))
        for warning in self._warnings:
            if warning not in logged:
                _log.warning("%s", warning)
        return resolved

    def batch_key(self, request: ResolvedRequest) -> Shape:
        """What requests must have in common to share a forward pass."""
        return Shape(
            height=request.height // 16,
            width=request.width // 16,
            reference_grids=tuple((i.height // 16, i.width // 16) for i in request.references),
            num_text_tokens=self.tokenizer.max_length,
            is_guided=request.is_guided,
        )

    def steps(
        self, request: ImageRequest | ResolvedRequest, *, timings: dict[str, float] | None = None
    ) -> Iterator[Step]:
        """Each step of a request with its latents; stop iterating to cancel.

        After the last step, timings holds the seconds of each stage up to it. Raises InputError,
        NumericalError, MemoryLimitError.
        """
        resolved = self._resolve_and_log(request)
        size = f"{resolved.width}x{resolved.height}"
        with memory_told(lambda: self._remedies(f"{len(resolved.seeds)} of {size}")):
            yield from self._stages(resolved, {} if timings is None else timings)

    # as a decorator: the mode is on while a step is computed, not in the caller's loop
    @torch.inference_mode()
    def _stages(self, request: ResolvedRequest, timings: dict[str, float]) -> Iterator[Step]:
        start = time.perf_counter()
        texts = self.encode_prompts(request.texts)
        encoding = time.perf_counter()
        references = self.encode_references(request.references)
        denoising = time.perf_counter()
        timings["text_seconds"] = encoding - start
        timings["encode_seconds"] = denoising - encoding
        states = [self.start(request, i, texts, references) for i in range(len(request.seeds))]
        for index in range(1, request.num_inference_steps + 1):
            sigma = float(states[0].conditions.sigmas[index - 1])
            self.advance(states)
            if not all(state.is_finite for state in states):
                raise self.not_finite(index)
            latents_now = torch.cat([state.latents for state in states])
            clean = torch.cat([state.clean_latents for state in states])
            timings["denoise_seconds"] = time.perf_counter() - denoising
            yield Step(index, request.num_inference_steps, sigma, latents_now, clean)

    def _remedies(self, pictures: str) -> str:
        """What takes less memory than what was tried."""
        remedies = [f"paint fewer or smaller pictures at once than {pictures}"]
        if self.residents.policy == "none":
            remedies.append("set offload to model")
        if self.quantization is None:
            remedies.append("take an FP8 file, or set quantize to int8")
        return ", ".join(remedies)

    @torch.inference_mode()
    def encode_prompts(self, prompts: Iterable[str]) -> dict[str, Tensor]:
        """Embeddings (1, t, context) by prompt, those not known encoded together."""
        known = self.embedding_cache.embeds(prompts, self._encode)
        return {prompt: embeds.to(self.device) for prompt, embeds in known.items()}

    def _encode(self, prompts: list[str]) -> Tensor:
        ids, mask = self.tokenizer.encode(prompts)
        text_encoder = self.residents.use("text_encoder")
        embeds: Tensor = text_encoder(ids.to(self.device), mask.to(self.device))
        return embeds

    @torch.inference_mode()
    def encode_references(self, references: Sequence[Image.Image]) -> Tensor:
        """Tokens (1, n, 128) of prepared references, one after the other."""
        tokens = [torch.empty(1, 0, 128, dtype=self.dtype, device=self.device)]
        for reference in references:
            pixels = images.to_tensor(reference).to(self.device, self.dtype)
            encoded = self.residents.use("autoencoder").encode(pixels)
            tokens.append(latents.latents_to_tokens(encoded))
        return torch.cat(tokens, dim=1)

    @torch.inference_mode()
    def start(
        self,
        request: ResolvedRequest,
        index: int,
        texts: Mapping[str, Tensor],
        references: Tensor,
    ) -> Painting:
        """Image `index` of a request, from 0, as noise; texts and references as encoded."""
        height, width = request.height // 16, request.width // 16
        prompts = [request.prompt_of(index)]
        prompts += [request.negative_prompt] if request.is_guided else []
        conditions = Conditions(
            texts=tuple(texts[prompt] for prompt in prompts),
            reference_tokens=references,
            sigmas=sampling.sigmas(request.num_inference_steps, height * width),
            guidance_scale=request.guidance_scale,
        )
        noise = latents.sample_noise([request.seeds[index]], request.height, request.width)
        tokens = latents.latents_to_tokens(noise.to(self.device, self.dtype))
        return Painting(self.batch_key(request), conditions, tokens)

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
            pixels = autoencoder.decode(latents.to(self.device, self.dtype))
            try:
                return images.to_images(pixels)
            except NumericalError as error:
                raise NumericalError(f"{error}; {self._cause_of_not_finite()}") from error

    def not_finite(self, index: int) -> NumericalError:
        """The error of a picture whose latents overflowed in step `index`."""
        return NumericalError(
            f"step {index}: latents are not finite; {self._cause_of_not_finite()}"
        )

    def _cause_of_not_finite(self) -> str:
        return cause_of_not_finite(self.residents.modules, self.dtype)


def _decoded(source: Any) -> Image.Image:  # noqa: ANN401 - as in ImageRequest
    return source.image if isinstance(source, OpenedReference) else images.load_image(source)


def _size(
    request: ImageRequest, references: Sequence[Image.Image], info: ModelInfo
) -> tuple[int, int]:
    """Width and height: the request's, else the first reference's, else the model's."""
    native = info.default_size, info.default_size
    if references:
        width, height = references[0].size
        native = max(width, MIN_SIDE_PIXELS), max(height, MIN_SIDE_PIXELS)
    size = int(request.width or native[0]), int(request.height or native[1])
    if size != native:
        check_size(*size)
    return size


def _check_guidance(request: ImageRequest, info: ModelInfo) -> None:
    guidance = info.guidance_scale if request.guidance_scale is None else request.guidance_scale
    if info.is_distilled and guidance != 1.0:
        raise InputError(f"guidance_scale: {guidance} on a distilled model; leave it out or 1.0")
    if request.negative_prompt and guidance <= 1.0:
        raise InputError(
            f"negative_prompt: {request.negative_prompt!r} has no effect without guidance; "
            "leave it out, or take a base model"
        )
