"""Fine-tune any klein model on a user's folder: what `kleinod train` runs.

The whole transformer learns, and the text encoder if asked. Weights of a configuration's model are
read as kleinod paints with them and trained in float32 (or bfloat16); the result is a folder in the
diffusers layout. Under torchrun many processes share the work; with `sharded`, the weights too.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout

from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.errors import InputError
from kleinod.memory import memory_told
from kleinod.training import distributed, preflight
from kleinod.training.configuration import FinetuneRecipe
from kleinod.training.configuration import read_recipe as read_recipe
from kleinod.training.flow import has_fast_bfloat16
from kleinod.training.flow_stage import FlowObjective, flow_loop
from kleinod.training.folder import (
    Contents,
    Size,
    fitting_size,
    folder_pools,
    measure,
    scan_folder,
)
from kleinod.training.loop import Loop
from kleinod.training.pool import Pool, Tools
from kleinod.training.preflight import TrainableModel
from kleinod.training.trainable import trainable, write_model
from kleinod.vocabulary import Vocabulary
from kleinod.weights.fingerprint import fingerprint

Progress = Callable[[str, float], None]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Listeners:
    """Who is told what: progress (stage, 0 to 1), the folder's contents, a line of each report."""

    progress: Progress = lambda stage, fraction: None
    data: Callable[[dict[str, Any]], None] = lambda summary: None
    record: Callable[[dict[str, Any]], None] | None = None


def finetune(
    recipe: FinetuneRecipe,
    *,
    progress: Progress | None = None,
    listeners: Listeners | None = None,
) -> Path:
    """Train, or resume; returns the finished model's folder.

    Everything that can be known before is checked before the model is loaded. Raises InputError
    for what does not fit, MemoryLimitError, NumericalError if the loss leaves the finite numbers
    (the last checkpoint is kept), and TrainingInterrupted after a signal.
    """
    listeners = listeners or Listeners()
    if progress is not None:
        listeners = replace(listeners, progress=progress)
    rank, world = distributed.start()
    if rank == 0:
        preflight.check_device(recipe)
        preflight.check_folders(recipe)
    with _locked(Path(recipe.run), is_first=rank == 0), memory_told(_memory_remedy):
        return _finetune(recipe, _prepared(recipe, listeners, rank, world), listeners)


def _memory_remedy() -> str:
    return "set checkpointing true, weights bfloat16, or a smaller batch or max_pixels"


@contextmanager
def _locked(run: Path, *, is_first: bool) -> Iterator[None]:
    """Raises InputError where another process trains in the same folder."""
    if not is_first:
        yield
        return
    run.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"run: another training uses {run}; wait for it, or give another run folder"
        ) from error
    try:
        yield
    finally:
        lock.release()
        _remove_if_empty(run)


def _remove_if_empty(run: Path) -> None:
    """Leave no folder behind where nothing was trained."""
    with suppress(OSError):
        if [entry.name for entry in run.iterdir()] == [".lock"]:
            (run / ".lock").unlink()
        run.rmdir()


@dataclass(frozen=True)
class _Prepared:
    """What the checks found: the examples, their pictures' sizes, the model, what is resumed."""

    contents: Contents
    sizes: dict[Path, Size]
    model: TrainableModel
    identity: dict[str, str]


def _prepared(recipe: FinetuneRecipe, listeners: Listeners, rank: int, world: int) -> _Prepared:
    """Every check that needs no loaded model, cheap ones first. Raises InputError."""
    model = preflight.check_model(recipe)
    contents = scan_folder(Path(recipe.data))
    identity = {
        "model": model.fingerprint(),
        "trains": recipe.trains,
        "weights": recipe.weights,
        "data": _data_fingerprint(contents, recipe.max_pixels),
    }
    step = preflight.check_checkpoint(recipe, identity)
    preflight.check_memory(recipe, model, world)
    sizes = measure(contents.items, lambda done: listeners.progress("pictures", done))
    pools, _ = folder_pools(
        contents.items, np.random.default_rng(0), recipe.max_pixels, sizes=sizes
    )
    if rank == 0:
        preflight.check_disk(recipe, model, _example_bytes(pools, model))
        _warn(recipe, model, step)
        listeners.data(_summary(recipe, contents, pools=pools, model=model, step=step))
    return _Prepared(contents, sizes, model, identity)


def _data_fingerprint(contents: Contents, max_pixels: int) -> str:
    """Changes with every caption, and with every picture's name, size in bytes and time."""
    files = [f for item in contents.items for f in (item.picture, *item.references)]
    facts = [(f.name, *_size_and_time(f)) for f in files]
    return fingerprint([], facts, [item.words for item in contents.items], max_pixels)


def _size_and_time(file: Path) -> tuple[int, int]:
    try:
        facts = file.stat()
    except OSError:
        return 0, 0  # a link that leads nowhere: opening the pictures says so
    return facts.st_size, facts.st_mtime_ns


def _example_bytes(pools: Sequence[Pool], model: TrainableModel) -> int:
    """Of the encoded examples in a checkpoint: latent tokens in bfloat16, token ids and masks."""
    text = 2 * 8 * model.info.max_text_tokens
    return sum(
        pool.capacity * (pool.pictures * pool.grid[0] * pool.grid[1] * 128 * 2 + text)
        for pool in pools
    )


def _warn(recipe: FinetuneRecipe, model: TrainableModel, step: int) -> None:
    if model.info.is_distilled and step == 0:
        _log.warning(
            "%s is distilled to few steps, and training it as a flow blurs that; take its base "
            "model and distil afterwards, or train few steps",
            model.info.name,
        )
    is_cpu = not torch.cuda.is_available() or recipe.device == "cpu"
    if recipe.weights == "bfloat16" and is_cpu and not has_fast_bfloat16("cpu"):
        _log.warning("this processor has no bfloat16 GEMM: weights float32 trains much faster")


def _summary(
    recipe: FinetuneRecipe,
    contents: Contents,
    *,
    pools: Sequence[Pool],
    model: TrainableModel,
    step: int,
) -> dict[str, Any]:
    """What was found and what will be done, in plain values."""
    items = contents.items
    cut = preflight.long_captions(model, [item.words for item in items])
    return {
        "folder": recipe.data,
        "pictures": len(items),
        "captions": sum(bool(item.words) for item in items),
        "references": sum(len(item.references) for item in items),
        "sizes": [
            {
                "width": pool.size[0],
                "height": pool.size[1],
                "references": pool.pictures - 1,
                "pictures": pool.capacity,
                "batch": pool.batch(recipe.batch),
            }
            for pool in pools
        ],
        "left_out": [{"file": name, "reason": reason} for name, reason in contents.left_out],
        "empty_captions": [item.picture.name for item in items if not item.words],
        "cut_captions": [items[i].picture.name for i in cut],
        "max_text_tokens": model.info.max_text_tokens,
        "model": model.info.name,
        "step": step,
        "steps": recipe.steps,
        "run": recipe.run,
    }


def _finetune(recipe: FinetuneRecipe, prepared: _Prepared, listeners: Listeners) -> Path:
    given = preflight.components(recipe)
    sampler = load_sampler(
        recipe.model, device=recipe.device or None, offload="none", components=given
    )
    loop = _loop(recipe, prepared, sampler)
    loop.on_progress = listeners.progress
    if listeners.record is not None:
        loop.on_record = listeners.record
    loop.run()
    folder = Path(recipe.output)
    if loop.rank == 0:
        values, name = loop.whole_average(), f"{_first_name(sampler.info.name)}, fine-tuned"
        tokenizer = prepared.model.paths.tokenizer
        known = _extended_vocabulary(sampler, prepared, recipe.max_pixels)
        info = replace(sampler.info, name=name, vocabulary=known)
        write_model(sampler, values, tokenizer=tokenizer, folder=folder, info=info)
    return folder


def _extended_vocabulary(
    sampler: Sampler, prepared: _Prepared, max_pixels: int
) -> Vocabulary | None:
    """What the model knew, with the captions' words and the sizes of their pictures."""
    known = sampler.info.vocabulary
    if known is None:
        return None
    items = prepared.contents.items
    sizes = [fitting_size(*prepared.sizes[item.picture], max_pixels) for item in items]
    return known.extended([item.words for item in items], sizes)


def _first_name(name: str) -> str:
    """A model may be fine-tuned again and again."""
    return name.removesuffix(", fine-tuned")


def _loop(recipe: FinetuneRecipe, prepared: _Prepared, sampler: Sampler) -> Loop:
    rng = np.random.default_rng(recipe.seed)
    items = prepared.contents.items
    pools, shares = folder_pools(items, rng, recipe.max_pixels, sizes=prepared.sizes)
    flow = trainable(sampler, getattr(torch, recipe.weights))
    flow.text_encoder.requires_grad_(recipe.trains == "all")
    tools = Tools(rng, sampler.residents.use("autoencoder").float(), sampler.tokenizer)
    # every picture is encoded once, and none is made anew
    recipe = replace(recipe, shares=shares, first_examples=len(items))
    loop = flow_loop(flow, recipe, pools=pools, tools=tools, folder=Path(recipe.run))
    loop.identity = prepared.identity
    loop.trial_kinds = (max(range(len(pools)), key=lambda i: _cost(pools[i], recipe.batch)),)
    if isinstance(loop.objective, FlowObjective):
        loop.objective.on_prepare = loop.tell_examples
    return loop


def _cost(pool: Pool, batch: int) -> int:
    """Latent tokens of a batch, which its memory grows with."""
    return pool.batch(batch) * pool.pictures * pool.grid[0] * pool.grid[1]
