"""kleinod itself, asked for one picture at a time."""

import time
from collections import deque
from typing import Any

import torch
from torch import Tensor, nn

from kleinod import images
from kleinod.bench.plan import CPU_SIZE, Plan, new_prompt
from kleinod.bench.work import Work, autoencoder_work, step_work, text_work
from kleinod.compute import attention_cuda
from kleinod.compute.attention import has_slow_kernel
from kleinod.diffusion import loading
from kleinod.kernels import native
from kleinod.models.text_encoder import num_seen
from kleinod.request import ImageRequest


class KleinodEngine:
    """A loaded sampler; the first picture tells what it is made of."""

    def __init__(self, plan: Plan) -> None:
        self._sampler = loading.load_sampler(
            plan.model,
            device=plan.device,
            dtype=plan.dtype,
            offload=plan.offload,
            quantize=plan.quantize,
            compile=plan.compile,
        )
        info, device = self._sampler.info, self._sampler.device
        native = min(info.default_size, CPU_SIZE) if device.type == "cpu" else info.default_size
        self.size = plan.size or native
        self.num_steps = plan.num_steps or info.num_inference_steps
        picture = images.to_images(noise_picture(self.size))[0]
        self._references = (picture,) * plan.num_references
        self._products: dict[str, str] = {}
        self._configs: dict[str, Any] = {}
        self._watch()

    def _watch(self) -> None:
        """Note each component when it is first used: under `sequential` it is soon gone."""
        use = self._sampler.residents.use

        def used(name: str) -> Any:  # noqa: ANN401 - as in Residents
            module = use(name)
            if name not in self._products:
                self._products[name] = product_format(module, self._sampler.dtype)
                self._configs[name] = module.config
            return module

        setattr(self._sampler.residents, "use", used)  # noqa: B010 - a method of one object

    def facts(self) -> dict[str, Any]:
        """What any picture of it is: known before the first."""
        info, device = self._sampler.info, self._sampler.device
        return {
            "model": info.name,
            "size": self.size,
            "num_steps": self.num_steps,
            "num_references": len(self._references),
            "text_layers": info.text_layers,
            "max_text_tokens": info.max_text_tokens,
            "device": str(device),
            "dtype": dtype_name(self._sampler.dtype),
            "offload": self._sampler.residents.policy,
            "quantize": self._sampler.quantization,
            "is_compiled": self._sampler.is_compiled,
            "attention": attention_name(device, self._sampler.dtype, self._sampler.quantization),
        }

    def paint(self, prompt: str, seed: int, path: str | None) -> dict[str, float]:
        """Seconds of each stage; on an accelerator each stage is waited for."""
        start = time.perf_counter()
        timings: dict[str, float] = {}
        request = ImageRequest(
            prompt,
            reference_images=self._references,
            width=self.size,
            height=self.size,
            num_inference_steps=self.num_steps,
            seed=seed,
        )
        step = deque(self._sampler.steps(request, timings=timings), maxlen=1).pop()
        synchronise(self._sampler.device)
        denoised = time.perf_counter()
        pictures = self._sampler.decode(step.latents)
        end = time.perf_counter()
        if path:
            pictures[0].save(path)
        text, encode = timings["text_seconds"], timings["encode_seconds"]
        denoise = denoised - start - text - encode
        return stages(encode=encode, text=text, denoise=denoise, decode=end - denoised) | {
            "per_step": denoise / self.num_steps
        }

    @torch.inference_mode()
    def encode(self) -> float:
        """Seconds of one reference of the picture's size."""
        autoencoder = self._sampler.residents.use("autoencoder")
        pixels = noise_picture(self.size).to(self._sampler.device, self._sampler.dtype)
        start = time.perf_counter()
        autoencoder.encode(pixels)
        synchronise(self._sampler.device)
        return time.perf_counter() - start

    def device_bytes(self) -> int | None:
        """The most that an accelerator held."""
        return device_peak_bytes(self._sampler.device)

    def work(self) -> dict[str, Any]:
        """Operations of each stage, in which numbers its products are, and shapes for the probe."""
        info, configs = self._sampler.info, self._configs
        side = self.size // 16
        num_tokens = side * side * (1 + len(self._references))
        _, mask = self._sampler.tokenizer.encode([new_prompt(0)])
        num_keys = num_seen(mask.to(self._sampler.device))
        counted = {
            "text": text_work(
                *(configs["text_encoder"], max(info.text_layers), info.max_text_tokens, num_keys)
            ),
            "per_step": step_work(configs["transformer"], num_tokens, info.max_text_tokens),
            **autoencoder_work(configs["autoencoder"], side, side),
        }
        transformer = configs["transformer"]
        return {
            "stages": {name: _told(work) for name, work in counted.items()},
            "products": {
                "text": self._products["text_encoder"],
                "per_step": self._products["transformer"],
                "encode_reference": self._products["autoencoder"],
                "decode": self._products["autoencoder"],
            },
            "shapes": {
                "tokens": num_tokens + info.max_text_tokens,
                "width": transformer.hidden_dim,
                "mlp": int(transformer.hidden_dim * transformer.mlp_ratio),
                "heads": transformer.num_attention_heads,
            },
        }


def _told(work: Work) -> dict[str, float]:
    return {"linear": work.linear, "attention": work.attention}


def stages(*, encode: float, text: float, denoise: float, decode: float) -> dict[str, float]:
    """The stages of one picture and their sum."""
    parts = {"encode": encode, "text": text, "denoise": denoise, "decode": decode}
    return parts | {"total": sum(parts.values())}


def attention_name(device: torch.device, dtype: torch.dtype, quantization: str | None) -> str:
    """The kernel that attention takes, for heads of 128 as the published models have."""
    if device.type == "cuda":
        return attention_cuda.chosen(device, dtype, 128)
    if device.type != "cpu" or dtype != torch.bfloat16:
        return "pytorch"
    other = "plain products" if quantization and has_slow_kernel() else "pytorch"
    return native.kind() or other


def noise_picture(size: int) -> Tensor:
    """A picture (1, 3, size, size) in [-1, 1] of coarse noise, the same each time."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, size // 16, size // 16, generator=generator) * 2 - 1
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")


def product_format(module: nn.Module, dtype: torch.dtype) -> str:
    """The numbers that most of a component's products are made of: float8, int8 or its dtype."""
    kinds = {type(child).__name__ for child in module.modules()}
    for kind, name in (("Int8Linear", "int8"), ("ScaledFloat8Linear", "float8")):
        if kind in kinds:
            return name
    return dtype_name(dtype)


def dtype_name(dtype: torch.dtype) -> str:
    """`bfloat16` of torch.bfloat16."""
    return str(dtype).removeprefix("torch.")


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def device_peak_bytes(device: torch.device) -> int | None:
    """The most that torch had allocated on an accelerator; on mps, which keeps no peak, now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return torch.mps.driver_allocated_memory() if device.type == "mps" else None
