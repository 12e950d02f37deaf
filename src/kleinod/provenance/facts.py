"""What a receipt says of model and machine: files and their hashes, formats, kernels, versions."""

import contextlib
import hashlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kleinod import catalog, fileio
from kleinod.compute.matmul import told
from kleinod.diffusion.sampler import Sampler
from kleinod.provenance.receipt import (
    ROBUST,
    SCHEMA,
    ProvenanceOptions,
    Receipt,
    pixels_sha256,
)
from kleinod.provenance.watermark import VERSION
from kleinod.quantization import int8
from kleinod.request import Components, ResolvedRequest
from kleinod.version import __version__
from kleinod.weights.files import weight_files
from kleinod.weights.fingerprint import fingerprint
from kleinod.weights.folders import model_paths
from kleinod.weights.headers import GGUF_SUFFIX, SUFFIX, read_header

NOISE = "torch.Generator on the CPU, one float32 draw of (1, 128, height/16, width/16) per picture"


@dataclass(frozen=True)
class ModelFile:
    """A file of a model; sampled_sha256 is of its size and 1 MiB of samples, sha256 of all."""

    component: str
    name: str
    num_bytes: int
    formats: tuple[str, ...]
    sampled_sha256: str
    sha256: str | None = None


def model_files(
    model: str | Path, components: Components, *, full_hashes: bool = False
) -> list[ModelFile]:
    """The files of a model that take part in a picture, hashed. Raises InputError."""
    paths = model_paths(catalog.find(model), components)
    files = {
        name: weight_files(getattr(paths, name))
        for name in ("transformer", "text_encoder", "autoencoder")
    } | {"tokenizer": [paths.tokenizer]}
    known = _KnownHashes()
    made = [
        ModelFile(
            component=name,
            name=file.name,
            num_bytes=file.stat().st_size,
            formats=_formats(file),
            sampled_sha256=known.hash(file, "sampled"),
            sha256=known.hash(file, "full") if full_hashes else None,
        )
        for name, paths_of_one in files.items()
        for file in paths_of_one
    ]
    known.save()
    return made


class _KnownHashes:
    """Hashes by path, size and time of change, kept in the cache folder if there is one."""

    def __init__(self) -> None:
        folder = catalog.cache_folder()
        self._file = folder / "hashes.json" if folder else None
        self._known, self._is_new = self._read(), False

    def hash(self, file: Path, kind: str) -> str:
        """Hexadecimal, `sampled` or `full`."""
        facts = file.stat()
        key = f"{kind}:{facts.st_size}:{facts.st_mtime_ns}:{file.resolve()}"
        if key not in self._known:
            self._known[key] = _full(file) if kind == "full" else fingerprint([file])
            self._is_new = True
        return self._known[key]

    def save(self) -> None:
        """Never an obstacle: what cannot be written is computed again."""
        if self._file is None or not self._is_new:
            return
        with contextlib.suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            fileio.write_atomic(self._file, json.dumps(self._known))

    def _read(self) -> dict[str, str]:
        try:
            known = json.loads(self._file.read_text(encoding="utf-8")) if self._file else {}
        except (OSError, ValueError):
            return {}
        return known if isinstance(known, dict) else {}


def _full(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _formats(file: Path) -> tuple[str, ...]:
    """Number formats of a weight file's tensors; nothing for another file."""
    if file.suffix not in (SUFFIX, GGUF_SUFFIX):
        return ()
    return tuple(sorted({entry.dtype for entry in read_header(file).tensors.values()}))


def draft_receipts(
    sampler: Sampler,
    request: ResolvedRequest,
    files: list[ModelFile],
    options: ProvenanceOptions,
    *,
    references: Sequence[Image.Image],
) -> list[Receipt]:
    """A receipt for each image of a request, without the hashes of the image itself.

    references: the reference pictures as they were decoded, before they were prepared.
    """
    common = _common(sampler, files, options)
    facts = [reference_facts(image) for image in references]
    return [
        common
        | {
            "request": _one_request(request, index, options) | {"reference_images": facts},
            "batch": {"size": len(request.seeds)},
        }
        for index in range(len(request.seeds))
    ]


def _common(sampler: Sampler, files: list[ModelFile], options: ProvenanceOptions) -> Receipt:
    info = sampler.info
    return {
        "schema": SCHEMA,
        "noise": NOISE,
        "model": {
            "name": info.name,
            "license": info.license,
            "text_layers": list(info.text_layers),
            "max_text_tokens": info.max_text_tokens,
            "files": [_without_none(asdict(file)) for file in files],
        },
        "numbers": _numbers(sampler),
        "device": {"type": sampler.device.type, "name": _device_name(sampler.device)},
        "kernels": {
            "cpu_capability": torch.backends.cpu.get_cpu_capability(),
            "num_threads": torch.get_num_threads(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
        },
        "versions": {
            "kleinod": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "safety": {"filters": "off"},
        "watermark": _watermark(options),
        "c2pa": "on" if options.c2pa else "off",
    }


def _watermark(options: ProvenanceOptions) -> dict[str, str | int]:
    if options.watermark == ROBUST:
        return {"method": ROBUST, "version": VERSION}
    return {"method": options.watermark}


def _numbers(sampler: Sampler) -> dict[str, str]:
    numbers = {"dtype": str(sampler.dtype).removeprefix("torch.")}
    products = told(sampler.dtype, sampler.device)
    if products is not None:
        numbers["products"] = products
    if sampler.quantization == "int8":
        numbers |= {"quantize": "int8", "int8_kernel": int8.kernel(sampler.device.type)}
    elif sampler.quantization:
        numbers["quantize"] = sampler.quantization
    if sampler.is_compiled:
        numbers["compile"] = "on"
    return numbers


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    # tuples as JSON gives them back
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in values.items()
        if value is not None
    }


def _one_request(
    request: ResolvedRequest, index: int, options: ProvenanceOptions
) -> dict[str, Any]:
    words: dict[str, Any] = {"is_private": True}
    if not options.private:
        words = {"negative_prompt": request.negative_prompt, "prompt": request.prompt_of(index)}
    return words | {
        "width": request.width,
        "height": request.height,
        "num_inference_steps": request.num_inference_steps,
        "guidance_scale": request.guidance_scale,
        "seed": request.seeds[index],
    }


def reference_facts(image: Image.Image) -> dict[str, Any]:
    """What a receipt says of a reference: size, and hash of its pixels as they were read."""
    return {"width": image.width, "height": image.height, "pixels_sha256": pixels_sha256(image)}


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return platform.machine()
