"""A sampler's weights as a module that can be trained, and trained ones as a model's folder."""

import os
import secrets
import shutil
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from kleinod import catalog, fileio, vocabulary
from kleinod.catalog import ModelInfo
from kleinod.compute.matmul import JoinedLinear
from kleinod.diffusion.sampler import Sampler
from kleinod.errors import InputError
from kleinod.quantization.stored import PlainWeight, StoredLinear
from kleinod.request import Components
from kleinod.training.export import export
from kleinod.training.flow import Flow
from kleinod.weights.folders import model_paths


def trainable(sampler: Sampler, dtype: torch.dtype = torch.float32) -> Flow:
    """Copies of the sampler's text encoder and transformer. Raises InputError."""
    flow = _empty(sampler)
    for name in ("transformer", "text_encoder"):
        _fill(getattr(flow, name), sampler.residents.use(name), name)
    return flow.to(sampler.device, dtype)


def _empty(sampler: Sampler) -> Flow:
    """A flow of the sampler's size, untrained."""
    text_encoder = sampler.residents.use("text_encoder")
    transformer = sampler.residents.use("transformer")
    return Flow(transformer.config, text_encoder.config, text_encoder.layers_read)


def _fill(module: nn.Module, loaded: nn.Module, name: str) -> None:
    state = _dense_state(loaded)
    if state.keys() != module.state_dict().keys():
        raise InputError(
            f"model: its {name} is quantised, and cannot be trained; take the bfloat16 files"
        )
    module.load_state_dict({n: t.float() for n, t in state.items()})


def _dense_state(loaded: nn.Module) -> dict[str, Tensor]:
    """The floating-point tensors of a module, each linear's weight whole.

    q, k and v of a mapped file stay apart (JoinedLinear), and where a processor has no bfloat16
    GEMM linears hold their weights to be multiplied in float32 (StoredLinear): neither is
    quantised. What is, keeps its names, which no untrained module has.
    """
    state = {n: t for n, t in loaded.state_dict().items() if t.is_floating_point()}
    for name, part in loaded.named_modules():
        parts: list[Tensor] = []
        if isinstance(part, JoinedLinear):
            parts = list(part.parts)
        elif isinstance(part, StoredLinear):
            parts = [p.weight for p in part.parts if isinstance(p, PlainWeight)]
            parts = parts if len(parts) == len(part.parts) else []
        if parts:
            state = {n: t for n, t in state.items() if not n.startswith(f"{name}.parts.")}
            state[f"{name}.weight"] = torch.cat(parts)
    return state


def write(
    sampler: Sampler, values: dict[str, Tensor], *, model: str, folder: Path, name: str
) -> None:
    """A folder of `model`, the sampler's, with other weights of transformer and text encoder.

    It is written whole or not at all, without a vocabulary, for what the model knew may be wrong
    now. Raises NumericalError for weights that are not finite.
    """
    tokenizer = model_paths(catalog.find(model), Components()).tokenizer
    info = replace(sampler.info, name=name, vocabulary=None)
    write_model(sampler, values, tokenizer=tokenizer, folder=folder, info=info)


def write_model(
    sampler: Sampler, values: dict[str, Tensor], *, tokenizer: Path, folder: Path, info: ModelInfo
) -> None:
    """The same with the tokenizer's file and the facts given."""
    done = _empty(sampler)
    done.load_state_dict(values)
    # inside of the folder: it may be a disk of its own
    part = folder / f"{fileio.PART_PREFIX}{secrets.token_hex(8)}{fileio.PART_SUFFIX}"
    try:
        (part / "tokenizer").mkdir(parents=True)
        files = tokenizer.parent.iterdir() if tokenizer.name == "vocab.json" else [tokenizer]
        for file in files:
            shutil.copy2(file, part / "tokenizer" / file.name)
        export(done, sampler.residents.use("autoencoder"), part, info)
        _take_place(part, folder)
        if info.vocabulary is None:
            (folder / vocabulary.FILE_NAME).unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(
            f"output: cannot write {folder} ({reason}); the checkpoint is kept, make room and run "
            "it again"
        ) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _take_place(part: Path, folder: Path) -> None:
    """Move a finished model's entries up; what stood there goes into `part`."""
    for entry in sorted(part.iterdir(), key=lambda e: e.name == "model_index.json"):
        target = folder / entry.name
        if target.exists():
            os.rename(target, part / f"old-{entry.name}")
        os.rename(entry, target)
