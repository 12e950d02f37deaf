"""Fine-tune any klein model on a user's folder: what `kleinod train` runs.

The whole transformer learns, and the text encoder if asked. Weights of a configuration's model are
read as kleinod paints with them and trained in float32 (or bfloat16); the result is a folder in the
diffusers layout. Under torchrun many processes share the work; with `sharded`, the weights too.
"""

import difflib
import logging
import shutil
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kleinod import catalog
from kleinod.assembly import load_sampler
from kleinod.errors import InputError
from kleinod.images import load_image
from kleinod.request import Components
from kleinod.sampler import Sampler
from kleinod.training.export import export
from kleinod.training.flow import Flow
from kleinod.training.flow_stage import FlowRecipe, flow_loop
from kleinod.training.folder import Captioned, fitting_size, folder_pools, read_folder
from kleinod.training.pool import Tools
from kleinod.vocabulary import Vocabulary
from kleinod.weights.folders import model_paths

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuneRecipe(FlowRecipe):
    """A configuration file's fields; paths are relative to the file.

    `trains` is transformer or all (the text encoder too); `weights` is the number format that is
    trained in; `run` holds checkpoints and curves, and `output` the finished model.
    """

    model: str = "mini"
    data: str = ""
    output: str = ""
    run: str = ""
    trains: str = "transformer"
    weights: str = "float32"
    device: str = ""
    max_pixels: int = 1024 * 1024
    steps: int = 500
    batch: int = 4
    muon_rate: float = 1e-3
    learning_rate: float = 1e-4
    warmup: int = 20
    average: float = 0.99
    report_every: int = 100
    fresh: int = 0
    first_examples: int = 4096


_CHOICES = {"trains": ("transformer", "all"), "weights": ("float32", "bfloat16")}
_HIDDEN = {"shares", "compiled_size", "fresh", "first_examples"}


def read_recipe(path: Path) -> FinetuneRecipe:
    """A configuration in TOML. Raises InputError for an unknown or unfit field."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; give a configuration file") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: is no TOML ({error}); mend it") from error
    known = {f.name: f.default for f in fields(FinetuneRecipe) if f.name not in _HIDDEN}
    for name, value in values.items():
        _check_field(path, name, value, known)
    for name in ("data", "output"):
        if not values.get(name):
            raise InputError(f"{path}: {name} is missing; give a folder")
    folders = ("data", "output", "run")
    places: dict[str, Any] = {n: str(path.parent / values[n]) for n in folders if n in values}
    places.setdefault("run", places["output"] + "-run")
    return FinetuneRecipe(**(values | places))


def _check_field(path: Path, name: str, value: object, known: dict[str, Any]) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(sorted(known))}"
        raise InputError(f"{path}: {name} is unknown; {hint}")
    wanted = type(known[name])
    fits = isinstance(value, int | float) if wanted is float else isinstance(value, wanted)
    if not fits or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{path}: {name}: {value!r} is no {wanted.__name__}; give one")
    if name in _CHOICES and value not in _CHOICES[name]:
        raise InputError(f"{path}: {name}: {value!r}; give {' or '.join(_CHOICES[name])}")
    if isinstance(value, int | float) and not isinstance(value, bool) and value < 0:
        raise InputError(f"{path}: {name}: {value} is under 0; give more")


def finetune(
    recipe: FinetuneRecipe, *, progress: Callable[[str, float], None] | None = None
) -> Path:
    """Train, or go on where it was stopped; returns the finished model's folder."""
    items = read_folder(Path(recipe.data))
    sampler = load_sampler(recipe.model, device=recipe.device or None, residency="all")
    if sampler.info.is_distilled:
        _log.warning(
            "%s is distilled to few steps, and training it as a flow blurs that; take its base "
            "model and distil afterwards, or train few steps",
            sampler.info.name,
        )
    rng = np.random.default_rng(recipe.seed)
    pools, shares = folder_pools(items, rng, recipe.max_pixels)
    flow = trainable(sampler, getattr(torch, recipe.weights))
    flow.text_encoder.requires_grad_(recipe.trains == "all")
    tools = Tools(rng, sampler.residents.use("autoencoder").float(), sampler.tokenizer)
    recipe = replace(recipe, shares=shares)
    loop = flow_loop(flow, recipe, pools=pools, tools=tools, folder=Path(recipe.run))
    loop.on_progress = progress
    loop.run()
    folder = Path(recipe.output)
    if loop.rank == 0:
        values, name = loop.whole_average(), f"{sampler.info.name}, fine-tuned"
        known = _extended_vocabulary(sampler, items, recipe.max_pixels)
        write(sampler, values, model=recipe.model, folder=folder, name=name, vocabulary=known)
    return folder


def _extended_vocabulary(
    sampler: Sampler, items: list[Captioned], max_pixels: int
) -> Vocabulary | None:
    """What the model knew, with the captions' words and the sizes of their pictures."""
    known = sampler.info.vocabulary
    if known is None:
        return None
    sizes = [fitting_size(*load_image(item.picture).size, max_pixels) for item in items]
    return known.extended([item.words for item in items], sizes)


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
    state = loaded.state_dict()
    stored = [n for n, t in state.items() if not t.is_floating_point()]
    if stored or set(state) != set(module.state_dict()):
        raise InputError(
            f"model: its {name} is quantised, and cannot be trained; take the bfloat16 files"
        )
    module.load_state_dict({n: t.float() for n, t in state.items()})


def write(
    sampler: Sampler,
    values: dict[str, torch.Tensor],
    *,
    model: str,
    folder: Path,
    name: str,
    vocabulary: Vocabulary | None = None,
) -> None:
    """A folder of `model`, the sampler's, with other weights of transformer and text encoder.

    vocabulary: what it knows now; None states nothing, for what the model knew may be wrong.
    """
    done = _empty(sampler)
    done.load_state_dict(values)
    tokenizer = model_paths(catalog.find(model), Components()).tokenizer
    (folder / "tokenizer").mkdir(parents=True, exist_ok=True)
    for file in tokenizer.parent.iterdir() if tokenizer.name == "vocab.json" else [tokenizer]:
        shutil.copy2(file, folder / "tokenizer" / file.name)
    stated = replace(sampler.info, name=name, vocabulary=vocabulary)
    export(done, sampler.residents.use("autoencoder"), folder, stated)
