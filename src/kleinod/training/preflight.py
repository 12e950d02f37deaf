"""What can be known before a model is loaded: whether a training could run to its end.

Folders can be written and are not each other, there is room on the disk and in memory, the model
can be trained, the checkpoint in `run` belongs to this training, every picture can be read.
"""

import os
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kleinod import catalog
from kleinod.catalog import ModelInfo
from kleinod.errors import InputError, MemoryLimitError
from kleinod.memory import available_bytes
from kleinod.models.tokenizer import Tokenizer
from kleinod.quantization.stored import PlainWeight, StoredWeight
from kleinod.request import Components
from kleinod.training import checkpoints
from kleinod.training.configuration import FinetuneRecipe
from kleinod.training.flow import is_matrix
from kleinod.weights import build
from kleinod.weights.files import num_bytes, weight_files
from kleinod.weights.fingerprint import fingerprint
from kleinod.weights.folders import ModelPaths, model_paths

_FLOAT32_BYTES, _BFLOAT16_BYTES = 4, 2


@dataclass(frozen=True)
class TrainableModel:
    """A model's files, its facts, and the numbers of parameters that a training holds.

    `trained` of `parameters` are updated, `matrices` of these by Muon.
    """

    paths: ModelPaths
    info: ModelInfo
    parameters: int
    trained: int
    matrices: int

    def fingerprint(self) -> str:
        """Tells this model's weights from others, wherever they lie."""
        files = [*weight_files(self.paths.transformer), *weight_files(self.paths.text_encoder)]
        return fingerprint(files, self.info.text_layers)

    def checkpoint_bytes(self, weight_bytes: int) -> int:
        """Weights, their average in float32, Muon's one and AdamW's two states."""
        states = self.matrices + 2 * (self.trained - self.matrices)
        return self.parameters * (weight_bytes + _FLOAT32_BYTES) + states * weight_bytes

    def memory_bytes(self, weight_bytes: int) -> int:
        """A checkpoint's content and the gradients; activations come on top."""
        return self.checkpoint_bytes(weight_bytes) + self.trained * weight_bytes

    def output_bytes(self) -> int:
        """The finished model: bfloat16, and the autoencoder as it is."""
        return self.parameters * _BFLOAT16_BYTES + num_bytes(self.paths.autoencoder)


def weight_bytes(recipe: FinetuneRecipe) -> int:
    """Bytes of a parameter in the dtype that is trained in."""
    return _BFLOAT16_BYTES if recipe.weights == "bfloat16" else _FLOAT32_BYTES


def components(recipe: FinetuneRecipe) -> Components:
    """The parts of a split model that the configuration names."""
    return Components(
        text_encoder=recipe.text_encoder or None,
        autoencoder=recipe.autoencoder or None,
        tokenizer=recipe.tokenizer or None,
    )


def check_model(recipe: FinetuneRecipe) -> TrainableModel:
    """Read the headers of the model's files. Raises InputError for what cannot be trained."""
    path = catalog.find(recipe.model)
    info = catalog.describe(recipe.model, path)
    try:
        paths = model_paths(path, components(recipe))
    except InputError as error:
        # the same words as a flag of `kleinod generate`, here a field
        raise InputError(re.sub(r"give --([a-z-]+) PATH", _as_field, str(error))) from error
    transformer = _trainable(build.open_transformer(paths.transformer), paths.transformer)
    text_encoder = _trainable(
        build.open_text_encoder(paths.text_encoder, info.text_layers), paths.text_encoder
    )
    trained = list(transformer.named_parameters())
    if recipe.trains == "all":
        trained += text_encoder.named_parameters()
    return TrainableModel(
        paths,
        info,
        parameters=_count(transformer.parameters()) + _count(text_encoder.parameters()),
        trained=_count(p for _, p in trained),
        matrices=_count(p for n, p in trained if is_matrix(n, p)),
    )


def _as_field(match: re.Match[str]) -> str:
    return f'set {match[1].replace("-", "_")} = "PATH"'


def _trainable(plan: build.Blueprint, path: Path) -> nn.Module:
    """The module on the meta device. Raises InputError if its weights are quantised."""
    for parts in plan.parts.values():
        if any(isinstance(p, StoredWeight) and not isinstance(p, PlainWeight) for p in parts):
            raise InputError(
                f"model: {path} is quantised, and cannot be trained; take its bfloat16 files"
            )
    return plan.module


def _count(tensors: Iterator[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def check_device(recipe: FinetuneRecipe) -> None:
    """Raises InputError for a device that is not there, or that torchrun has to start."""
    if recipe.sharded and "WORLD_SIZE" not in os.environ:
        raise InputError("sharded: needs several processes; start it by torchrun, or set it false")
    try:
        torch.empty(0, device=recipe.device or None)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device: {recipe.device!r} cannot be used; give cpu, cuda, cuda:0 or mps"
        ) from error


def check_folders(recipe: FinetuneRecipe) -> None:
    """Raises InputError if `output` or `run` cannot be written or would overwrite something."""
    data, output, run = (Path(p).resolve() for p in (recipe.data, recipe.output, recipe.run))
    model = catalog.find(recipe.model).resolve()
    for name, path in (("output", output), ("run", run)):
        taken = {"data": data, "model": model} | ({"output": output} if name == "run" else {})
        for other, folder in taken.items():
            if _is_same(path, folder):
                raise InputError(f"{name}: {path} is also {other}; give a folder of its own")
    for other, folder in (("data", data), ("model", model)):
        if output in folder.parents:
            raise InputError(f"output: {output} contains {other} ({folder}); give another folder")
    for name, path in (("output", output), ("run", run)):
        _probe(name, path)
    _check_output(output, run)


def _is_same(one: Path, other: Path) -> bool:
    """Whether two paths are one place, links and file systems without case included."""
    with suppress(OSError):
        return one == other or one.samefile(other)
    return False


def _probe(name: str, folder: Path) -> None:
    """Raises InputError if no file could be made there; leaves nothing."""
    created: list[Path] = []
    try:
        missing = [f for f in (folder, *folder.parents) if not f.exists()]
        for path in reversed(missing):
            path.mkdir()
            created.append(path)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{name}: cannot write {folder} ({reason}); choose another") from error
    finally:
        for path in reversed(created):
            with suppress(OSError):
                path.rmdir()


def _check_output(output: Path, run: Path) -> None:
    """A folder with other things in it is refused: weights in it would be replaced."""
    if not output.is_dir() or (output / "model_index.json").is_file():
        return
    others = [entry.name for entry in output.iterdir() if entry.name[:1] != "."]
    if run.parent == output:
        others = [name for name in others if name != run.name]
    if others:
        raise InputError(
            f"output: {output} holds other files, {min(others)} for one; give a new folder or "
            "that of an earlier model"
        )


def check_checkpoint(recipe: FinetuneRecipe, identity: dict[str, str]) -> int:
    """The step that `run` resumes from, 0 for none. Raises InputError if it is another training."""
    path = Path(recipe.run) / "flow.safetensors"
    facts = checkpoints.read_facts(path)
    if facts is None:
        return 0
    for name, value in (facts.get("identity") or {}).items():
        if name != "data" and identity.get(name) != value:
            raise InputError(
                f"run: {path} is of a training with another {name}; name another run folder, or "
                "delete this one to start again"
            )
    step = int(facts["step"])
    if step > recipe.steps:
        raise InputError(
            f"steps: {recipe.steps} is under the {step} steps that {path} has; give more, or name "
            "another run folder"
        )
    return step


def check_disk(recipe: FinetuneRecipe, model: TrainableModel, example_bytes: int) -> None:
    """Raises InputError if checkpoints and the finished model do not fit."""
    checkpoint = model.checkpoint_bytes(weight_bytes(recipe)) + example_bytes
    # the next one is whole before it replaces the last
    copies = 1 if (Path(recipe.run) / "flow.safetensors").is_file() else 2
    needs: dict[int, int] = defaultdict(int)
    places: dict[int, Path] = {}
    for folder, wanted in (
        (recipe.run, copies * checkpoint),
        (recipe.output, model.output_bytes()),
    ):
        place = next(p for p in (Path(folder), *Path(folder).absolute().parents) if p.exists())
        needs[place.stat().st_dev] += wanted
        places[place.stat().st_dev] = place
    for device, wanted in needs.items():
        free = shutil.disk_usage(places[device]).free
        if free < wanted:
            raise InputError(
                f"disk: {places[device]} has {free / 1e9:.2f} GB free, checkpoints and the model "
                f"need {wanted / 1e9:.2f}; make room, or set run and output to another disk"
            )


def check_memory(recipe: FinetuneRecipe, model: TrainableModel, world: int) -> None:
    """Raises MemoryLimitError if not even weights, gradients and optimiser fit."""
    wanted = model.memory_bytes(weight_bytes(recipe)) // (world if recipe.sharded else 1)
    is_cuda = torch.device(recipe.device or _best_device()).type == "cuda"
    free = torch.cuda.mem_get_info()[0] if is_cuda else available_bytes()
    if free and wanted > free:
        raise MemoryLimitError(
            f"memory: {free / 1e9:.1f} GB are free, and training {model.info.name} needs "
            f"{wanted / 1e9:.1f} before any picture; set weights bfloat16, shard it over several "
            "devices, or take a smaller model"
        )


def _best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


def long_captions(model: TrainableModel, captions: list[str]) -> list[int]:
    """The indices of captions whose end the text encoder does not read."""
    tokenizer = Tokenizer.from_file(model.paths.tokenizer, model.info.max_text_tokens)
    template = int(tokenizer.encode([""])[1].sum())
    room = model.info.max_text_tokens - template
    return [i for i, words in enumerate(captions) if len(tokenizer.word_ids(words)) > room]
