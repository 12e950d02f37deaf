"""Prompt and reference images -> steps -> picture, from a diffusers folder of any size."""

import secrets
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from kleinod import images, latents, sampling
from kleinod.errors import InputError, NumericalError
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.models.transformer import Transformer
from kleinod.request import Request
from kleinod.weights import loading

TEXT_LAYERS = (9, 18, 27)
DEFAULT_SIZE = 1024


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


@dataclass
class Pipeline:
    """The four components and the variant that no tensor tells."""

    transformer: Transformer
    autoencoder: Autoencoder
    text_encoder: TextEncoder
    tokenizer: Tokenizer
    is_distilled: bool

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the transformer's weights."""
        return self.transformer.img_in.weight.dtype

    def generate(self, prompt: str | tuple[str, ...], **fields: Any) -> Result:  # noqa: ANN401
        """Pictures for Request's fields. Raises InputError, NumericalError."""
        request, seeds = self._settled(Request(prompt, **fields))
        start = time.perf_counter()
        last = deque(self._painted(request, seeds), maxlen=1).pop()
        denoised = time.perf_counter()
        with torch.inference_mode():
            pictures = images.to_images(self.autoencoder.decode(last.latents))
        timings = {
            "denoise_seconds": denoised - start,
            "decode_seconds": time.perf_counter() - denoised,
        }
        made = [GeneratedImage(i, s) for i, s in zip(pictures, seeds, strict=True)]
        return Result(made, timings)

    def steps(self, request: Request) -> Iterator[Step]:
        """Each step of a request with its latents; stop iterating to cancel."""
        yield from self._painted(*self._settled(request))

    # as a decorator: the mode is on while a step is computed, not in the caller's loop
    @torch.inference_mode()
    def _painted(self, request: Request, seeds: list[int]) -> Iterator[Step]:
        references = [
            images.prepare_reference(images.load_image(r)) for r in request.reference_images
        ]
        size = references[0].size if references else (DEFAULT_SIZE, DEFAULT_SIZE)
        width, height = request.width or size[0], request.height or size[1]
        tokens, ids = self._references(references, len(seeds))
        embeds = self._embeds(request)
        x = latents.sample_noise(seeds, height, width).to(self.dtype)
        grid = latents.image_position_ids(height // 16, width // 16)
        yield from self._denoise(request, x, embeds, (tokens, torch.cat((grid, ids))))

    def _settled(self, request: Request) -> tuple[Request, list[int]]:
        request.validate()
        guidance = request.guidance_scale
        if self.is_distilled and guidance not in (None, 1.0):
            raise InputError(
                f"guidance_scale: {guidance} on a distilled model; leave it out or 1.0"
            )
        prompts = (request.prompt,) if isinstance(request.prompt, str) else tuple(request.prompt)
        seed = secrets.randbelow(2**31) if request.seed is None else request.seed
        fields = request.__dict__ | {
            "prompt": prompts,
            "seed": seed,
            "guidance_scale": guidance or (1.0 if self.is_distilled else 4.0),
            "num_inference_steps": request.num_inference_steps or (4 if self.is_distilled else 50),
        }
        return Request(**fields), [seed + i for i in range(len(prompts) * request.num_images)]

    def _embeds(self, request: Request) -> list[Tensor]:
        groups = [list(request.prompt)]
        if (request.guidance_scale or 1.0) > 1:
            groups.append([request.negative_prompt] * len(request.prompt))
        return [
            self.text_encoder(*self.tokenizer.encode(group)).repeat_interleave(
                request.num_images, dim=0
            )
            for group in groups
        ]

    def _references(self, references: list[Image.Image], batch: int) -> tuple[Tensor, Tensor]:
        tokens = [torch.empty(batch, 0, 128, dtype=self.dtype)]
        ids = [torch.empty(0, 4, dtype=torch.long)]
        for index, reference in enumerate(references, start=1):
            encoded = self.autoencoder.encode(images.to_tensor(reference).to(self.dtype))
            tokens.append(latents.latents_to_tokens(encoded).expand(batch, -1, -1))
            ids.append(latents.image_position_ids(encoded.shape[2], encoded.shape[3], 10 * index))
        return torch.cat(tokens, dim=1), torch.cat(ids)

    def _denoise(
        self, request: Request, x: Tensor, embeds: list[Tensor], reference: tuple[Tensor, Tensor]
    ) -> Iterator[Step]:
        height, width = x.shape[-2:]
        steps = request.num_inference_steps or 1
        schedule = sampling.sigmas(steps, height * width)
        x = latents.latents_to_tokens(x)
        text_ids = latents.text_position_ids(embeds[0].shape[1])
        for index in range(steps):
            # the reference rounds 1000 * sigma to the dtype, then divides in it
            times = (schedule[index] * 1000).to(self.dtype).expand(x.shape[0]) / 1000
            joined = torch.cat((x, reference[0]), dim=1)
            velocities = [
                self.transformer(joined, times, text, reference[1], text_ids)[:, : x.shape[1]]
                for text in embeds
            ]
            velocity = velocities[0]
            if len(velocities) > 1:
                scale = request.guidance_scale
                velocity = velocities[1] + scale * (velocities[0] - velocities[1])
            x = sampling.euler_step(x, velocity, schedule[index], schedule[index + 1])
            if not torch.isfinite(x).all():
                raise NumericalError(f"step {index + 1}: latents are not finite; try float32")
            grid = latents.tokens_to_latents(x, height, width)
            yield Step(index + 1, steps, float(schedule[index]), grid)


def load(path: str | Path, *, dtype: torch.dtype = torch.bfloat16) -> Pipeline:
    """A pipeline from a diffusers folder, on the CPU. Raises WeightsError, InputError."""
    folder = Path(path)
    if not (folder / "model_index.json").is_file():
        raise InputError(f"model: {path} is no folder with a model_index.json; give one")
    index = loading.read_json(folder / "model_index.json")
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    if not tokenizer.is_file():
        raise InputError(f"model: {tokenizer} is missing; fetch the model again")
    return Pipeline(
        loading.load_transformer(folder / "transformer", dtype),
        loading.load_autoencoder(folder / "vae", dtype),
        loading.load_text_encoder(folder / "text_encoder", dtype, TEXT_LAYERS),
        Tokenizer.from_file(tokenizer),
        bool(index.get("is_distilled", False)),
    )
