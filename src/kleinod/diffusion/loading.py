"""A sampler from a name or a path: which files, device and dtype, and do the parts fit."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kleinod import catalog
from kleinod.catalog import ModelInfo
from kleinod.compute.attention import inexact
from kleinod.compute.matmul import product_dtype, told
from kleinod.config import TextEncoderConfig, TransformerConfig
from kleinod.diffusion.prompt_cache import EmbeddingCache, EmbeddingStore
from kleinod.diffusion.sampler import Sampler
from kleinod.display import printable
from kleinod.errors import InputError, WeightsError
from kleinod.kernels import native
from kleinod.load_options import check_dtype, check_offload
from kleinod.memory import available_bytes, memory_told, use_large_pages
from kleinod.models.tokenizer import Tokenizer
from kleinod.models.transformer import Transformer
from kleinod.quantization import int8, scaled_float8
from kleinod.request import Components
from kleinod.runtime import block_streaming, compiling, cuda_graphs
from kleinod.runtime.offload import Residents, chosen_policy
from kleinod.weights import build, files
from kleinod.weights.files import weight_files
from kleinod.weights.fingerprint import fingerprint
from kleinod.weights.folders import ModelPaths, model_paths
from kleinod.weights.headers import own_titles, read_header

Progress = Callable[[str, float], None]
_log = logging.getLogger(__name__)

_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
QUANTIZATIONS = (None, "int8", "fp8")
# below this an encoder runs faster than its embeddings are worth keeping
MIN_STORED_ENCODER_BYTES = 256 * 1024**2
# the published text encoders by width
_TEXT_ENCODERS = {2560: "Qwen3-4B, klein 4B's", 4096: "Qwen3-8B, klein 9B's"}
QWEN3_WORDS, QWEN3_PAD = 151936, 151643
# the widths that are published, and under which licence
_LICENSES = {3072: catalog.APACHE, 4096: catalog.NON_COMMERCIAL}


def load_sampler(
    model: str | Path = "mini",
    *,
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    components: Components | None = None,
    offload: str = "auto",
    quantize: str | None = None,
    compile: bool | None = None,
    progress: Progress | None = None,
) -> Sampler:
    """A sampler of a known model, a folder in the diffusers layout or a transformer's single file.

    Every file is checked here; under `model` the weights are read when they are first used.
    quantize: "int8" or "fp8" computes the blocks' linears so, not quite the same picture.
    compile: blocks are compiled by torch when they first run; None: on CUDA cards.
    Raises InputError, WeightsError.
    """
    use_large_pages()
    path = catalog.find(model)
    paths = model_paths(path, components or Components())
    titles = own_titles(path)
    info = catalog.describe(model, path, titles=titles)
    where = _place(paths, info, device, dtype, offload=offload, quantize=quantize, compile=compile)
    _log_slower_products(where)
    with memory_told(lambda: "set offload to model, or take an FP8 or GGUF file"):
        sampler = _assembled(paths, info, where, progress or _silent)
    if warning := catalog.guess_warning(model, path, titles=titles):
        _log.warning("%s", warning)
    return sampler


def _place(
    paths: ModelPaths,
    info: ModelInfo,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    *,
    offload: str,
    quantize: str | None,
    compile: bool | None,
) -> "_Place":
    """Where and how the model is computed. Raises InputError."""
    place = _device(device)
    number = _dtype(dtype, info, place)
    quantization = _quantization(quantize, place)
    policy = _policy(check_offload(offload), paths)
    is_dear = place.type == "cpu" or quantization == "int8"
    if offload == "auto" and is_dear and _fits(paths, number, quantization):
        # to map anew takes a tenth of a call, to quantise takes longer than to paint
        policy = "none"
    if quantization == "int8" and policy == "block" and place.type != "cpu":
        raise InputError("offload: block takes int8 on the CPU only; give quantize fp8 or none")
    return _Place(place, number, policy, quantization, compiling.is_wanted(compile, place))


def _log_slower_products(place: "_Place") -> None:
    if product_dtype(place.dtype, place.device) != place.dtype:
        _log.info("this processor has no products of bfloat16 numbers; they are made in float32")
    unused = native.why_unused() if place.device.type == "cpu" else None
    if unused and (place.quantization == "int8" or place.dtype == torch.bfloat16):
        _log.info("products are slower than they could be: %s", unused)


def _silent(stage: str, fraction: float) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class _Place:
    device: torch.device
    dtype: torch.dtype
    policy: str
    quantization: str | None
    is_compiled: bool


def _quantization(quantize: str | None, device: torch.device) -> str | None:
    """None, or a way to compute in fewer bits. Raises InputError."""
    if quantize not in QUANTIZATIONS:
        shown = printable(quantize, limit=100)
        raise InputError(f"quantize: {shown} is unknown; give int8 or fp8, or leave it out")
    if quantize == "fp8" and not scaled_float8.can_multiply(device):
        raise InputError(
            f"quantize: {device} has no products of fp8 numbers (NVIDIA cards from Ada on have); "
            "give int8, or leave it out"
        )
    return quantize


def _assembled(paths: ModelPaths, info: ModelInfo, place: _Place, progress: Progress) -> Sampler:
    openers: dict[str, Callable[[], build.Blueprint]] = {
        "text_encoder": partial(build.open_text_encoder, paths.text_encoder, info.text_layers),
        "transformer": partial(build.open_transformer, paths.transformer),
        "autoencoder": partial(build.open_autoencoder, paths.autoencoder, paths.own_autoencoder),
    }

    def loader(name: str) -> nn.Module:
        return _loaded(openers[name](), place, is_autoencoder=name == "autoencoder")

    residents = Residents({name: partial(loader, name) for name in openers}, place.policy)
    tokenizer = Tokenizer.from_file(paths.tokenizer, info.max_text_tokens)
    modules: dict[str, Any] = {}
    for index, name in enumerate(openers):
        progress(name, index / len(openers))
        modules[name] = residents.use(name) if place.policy == "none" else openers[name]().module
    _check_pair(modules, tokenizer, info, paths)
    progress("ready", 1.0)
    config: TransformerConfig = modules["transformer"].config
    if info.license == catalog.UNKNOWN_LICENSE:
        info = replace(info, license=_LICENSES.get(config.hidden_dim, info.license))
    cache = EmbeddingCache(store=_store(paths, info, place))
    return Sampler(
        residents,
        tokenizer,
        info,
        device=place.device,
        dtype=place.dtype,
        quantization=place.quantization,
        is_compiled=place.is_compiled,
        has_encoder=modules["autoencoder"].config.has_encoder,
        embedding_cache=cache,
    )


def _loaded(plan: build.Blueprint, place: _Place, *, is_autoencoder: bool) -> nn.Module:
    """A component with its weights, and what was chosen to make it fast or small."""
    is_streamed = place.policy == "block" and place.device.type != "cpu" and not is_autoencoder
    home = torch.device("cpu") if is_streamed else place.device
    quantize = "int8" if place.quantization == "int8" and not is_autoencoder else None
    # a laptop's processor convolves bfloat16 numbers hundreds of times slower
    dtype = product_dtype(place.dtype, place.device) if is_autoencoder else place.dtype
    made = plan.filled(home, dtype, quantize=quantize)
    if is_autoencoder and place.device.type == "cpu" and _sums_otherwise(place):
        # up to twice as fast there, and summed in another order
        nn.utils.convert_conv2d_weight_memory_format(made, torch.channels_last)
    if place.quantization and isinstance(made, Transformer):
        made.use_attention(inexact)
    if place.quantization == "fp8":
        scaled_float8.with_float8_products(made)
    if place.is_compiled:
        compiling.compile_blocks(made)
    if is_streamed:
        return block_streaming.streamed(made, list(compiling.blocks(made)), place.device)
    if place.is_compiled and place.device.type == "cuda" and place.policy == "none":
        cuda_graphs.record_forward(made, place.device)
    return made


def _sums_otherwise(place: _Place) -> bool:
    """Whether a mode's sums have another order than PyTorch's anyway (docs/decisions, 4)."""
    own = native.AMX, native.AVX512
    return bool(place.quantization) or told(place.dtype, place.device) in own


def _store(paths: ModelPaths, info: ModelInfo, place: _Place) -> EmbeddingStore | None:
    """Where embeddings are kept on disk, for an encoder that is slow enough to be worth it."""
    folder = catalog.cache_folder()
    encoder = files.weight_files(paths.text_encoder)
    if folder is None or files.num_bytes(paths.text_encoder) < MIN_STORED_ENCODER_BYTES:
        return None
    # what may change a bit of the result; another kernel is another device or torch
    facts = [info.text_layers, info.max_text_tokens, str(place.dtype), place.device.type]
    if place.quantization:
        facts += [place.quantization, int8.kernel(place.device.type)]
    if place.is_compiled:
        facts.append("compiled")
    products = told(place.dtype, place.device)
    if products is not None:
        facts.append(f"{products} {native.REVISION}")
    name = fingerprint([*encoder, paths.tokenizer], *facts, torch.__version__)
    return EmbeddingStore(folder / "embeddings", name)


def _check_pair(
    modules: dict[str, Any], tokenizer: Tokenizer, info: ModelInfo, paths: ModelPaths
) -> None:
    """The parts must fit each other. Raises WeightsError."""
    text, context = modules["text_encoder"].config, modules["transformer"].config
    count = len(info.text_layers)
    if text.hidden_size * count != context.joint_attention_dim:
        raise WeightsError(
            f"text encoder {paths.text_encoder}: gives {_read(text.hidden_size * count, count)}, "
            f"the transformer reads {_read(context.joint_attention_dim, count)}; "
            "take the text encoder of this size of model"
        )
    _check_tokenizer(tokenizer, text, paths.tokenizer)
    channels = 4 * modules["autoencoder"].config.latent_channels
    if channels != context.in_channels:
        raise WeightsError(
            f"autoencoder {paths.autoencoder}: gives {channels} channels, the transformer reads "
            f"{context.in_channels}; take klein's autoencoder"
        )


def _read(width: int, num_layers: int) -> str:
    """A text width in words, with the published encoder that has it."""
    encoder = _TEXT_ENCODERS.get(width // num_layers)
    return f"{width} numbers per token" + (f" ({encoder})" if encoder else "")


def _check_tokenizer(tokenizer: Tokenizer, text: TextEncoderConfig, path: Path) -> None:
    """The tokenizer must number its words as the text encoder does. Raises WeightsError."""
    known, words = text.vocab_size, tokenizer.num_tokens
    # published tables of words are padded a little
    if words > known or words < known * 3 // 4:
        raise WeightsError(
            f"tokenizer {path}: has {words} tokens, the text encoder {known}; "
            "take the tokenizer of this text encoder"
        )
    if known == QWEN3_WORDS and tokenizer.pad_id != QWEN3_PAD:
        raise WeightsError(
            f"tokenizer {path}: <|endoftext|> has the number {tokenizer.pad_id}, in Qwen3 "
            f"{QWEN3_PAD}; take Qwen3's tokenizer"
        )


def _policy(policy: str, paths: ModelPaths) -> str:
    # a checkpoint is the path of each component in it
    parts = {paths.transformer, paths.text_encoder, paths.autoencoder}
    return chosen_policy(policy, sum(files.num_bytes(part) for part in parts))


def _fits(paths: ModelPaths, dtype: torch.dtype, quantization: str | None) -> bool:
    """Whether transformer and text encoder, which are nearly all, fit into the free memory."""
    parts = {
        file for path in (paths.transformer, paths.text_encoder) for file in weight_files(path)
    }
    entries = [entry for file in parts for entry in read_header(file).tensors.values()]
    # mapped pages count as free until they are used, and the system may take them back
    bytes_each = 1.5 if quantization == "int8" else dtype.itemsize
    return bytes_each * sum(entry.num_elements for entry in entries) < available_bytes()


def _device(device: str | torch.device | None) -> torch.device:
    """The given device, or the best present: cuda, mps, cpu. Raises InputError."""
    best = "cuda" if torch.cuda.is_available() else "cpu"
    if best == "cpu" and torch.backends.mps.is_available():
        best = "mps"
    try:
        chosen = torch.device(best if device is None else device)
    except (RuntimeError, TypeError, ValueError):
        shown = printable(device, limit=100)
        raise InputError(f"device: {shown} is unknown; give cpu, cuda, cuda:0 or mps") from None
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": best == "mps"}
    if not present.get(chosen.type, False):
        raise InputError(f"device: {device} is not on this machine; the best here is {best}")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {device}: this machine has {torch.cuda.device_count()}")
    return chosen


def _dtype(dtype: str | torch.dtype | None, info: ModelInfo, device: torch.device) -> torch.dtype:
    """The given dtype; else bfloat16, and float32 for the small built-in model on the CPU."""
    if dtype is None:
        is_small = info.name == "mini" and device.type == "cpu"
        return torch.float32 if is_small else torch.bfloat16
    if isinstance(dtype, torch.dtype):
        dtype = str(dtype)
    chosen = _DTYPES[check_dtype(dtype)]
    if chosen == torch.float16 and device.type == "cpu":
        raise InputError("dtype: float16 is slow and overflows on the CPU; give bfloat16")
    return chosen
