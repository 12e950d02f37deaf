"""diffusers, asked for the same pictures; for `--against` only, and in a process of its own.

It gets what kleinod gets: the folder, prompt, size, steps, text layers and text length. Not its
progress bar.
"""

import time
from typing import Any

import torch

from kleinod import catalog, images
from kleinod.bench.kleinod_runner import (
    device_peak_bytes,
    dtype_name,
    noise_picture,
    stages,
    synchronise,
)
from kleinod.bench.plan import Plan


class DiffusersEngine:
    """Flux2KleinPipeline with a stopwatch at its stages."""

    def __init__(self, plan: Plan, *, is_compiled: bool = False) -> None:
        from diffusers import Flux2KleinPipeline
        from diffusers.utils import logging

        logging.disable_progress_bar()
        # by now the bench has filled in what kleinod takes by default
        assert plan.size and plan.num_steps and plan.device and plan.dtype
        folder = catalog.find(plan.model)
        self._info = catalog.describe(plan.model, folder)
        self._plan, self._device = plan, torch.device(plan.device)
        self._dtype: torch.dtype = getattr(torch, plan.dtype)
        kind: Any = Flux2KleinPipeline
        self._pipeline = kind.from_pretrained(folder, dtype=self._dtype).to(self._device)
        self._pipeline.set_progress_bar_config(disable=True)
        if is_compiled:
            self._pipeline.transformer.compile_repeated_blocks(fullgraph=True)
        picture = images.to_images(noise_picture(plan.size))[0]
        self._references = [picture] * plan.num_references
        self._seconds: dict[str, float] = {}
        self._clock(self._pipeline, "encode_prompt", "text")
        self._clock(self._pipeline, "prepare_image_latents", "encode")
        self._clock(self._pipeline.transformer, "forward", "denoise")
        self._clock(self._pipeline.vae, "decode", "decode")

    def facts(self) -> dict[str, Any]:
        """What it runs."""
        import diffusers

        return {
            "version": diffusers.__version__,
            "device": str(self._device),
            "dtype": dtype_name(self._dtype),
        }

    def paint(self, prompt: str, seed: int, path: str | None) -> dict[str, float]:
        """Seconds of each stage; the total is the whole call's."""
        self._seconds.clear()
        side, references = self._plan.size, self._references
        start = time.perf_counter()
        result = self._pipeline(
            prompt=prompt,
            image=references or None,
            width=side,
            height=side,
            num_inference_steps=self._plan.num_steps,
            guidance_scale=1.0,
            generator=torch.Generator().manual_seed(seed),
            text_encoder_out_layers=self._info.text_layers,
            max_sequence_length=self._info.max_text_tokens,
        )
        total = time.perf_counter() - start
        if path:
            result.images[0].save(path)
        names = ("encode", "text", "denoise", "decode")
        measured = stages(**{name: self._seconds.get(name, 0.0) for name in names})
        per_step = measured["denoise"] / (self._plan.num_steps or 1)
        return measured | {"per_step": per_step, "total": total}

    @torch.inference_mode()
    def encode(self) -> float:
        """Seconds of one reference of the picture's size."""
        pixels = noise_picture(self._plan.size or 0).to(self._device, self._dtype)
        start = time.perf_counter()
        self._pipeline.vae.encode(pixels)
        synchronise(self._device)
        return time.perf_counter() - start

    def work(self) -> dict[str, Any]:
        """Nothing: operations are counted once, from kleinod's model."""
        return {}

    def device_bytes(self) -> int | None:
        """The most that an accelerator held."""
        return device_peak_bytes(self._device)

    def _clock(self, owner: Any, name: str, stage: str) -> None:  # noqa: ANN401 - theirs
        """Add the seconds of every call of owner.name to a stage."""
        called = getattr(owner, name)

        def clocked(*values: Any, **fields: Any) -> Any:  # noqa: ANN401 - theirs
            start = time.perf_counter()
            result = called(*values, **fields)
            synchronise(self._device)
            passed = time.perf_counter() - start
            self._seconds[stage] = self._seconds.get(stage, 0.0) + passed
            return result

        setattr(owner, name, clocked)
