"""The loop of every stage: loss, gradients, update, average, report, checkpoint.

What is learned is an objective's business. A checkpoint is two kinds of files: NAME.safetensors
with model, optimiser, average and step, written by the first process; and NAME-RANK.safetensors
with what each process draws from (examples in memory and random states). With both, a run that was
stopped goes on to the same bits as one that was not; if the second kind is missing or of another
step or number of processes, it goes on with other examples, and says so.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kleinod.training import checkpoints, distributed, sharding
from kleinod.training.curves import Curves
from kleinod.training.optimiser import Optimisers, schedule

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoopRecipe:
    """How to step. A batch is of one process; `accumulation` batches make one step.

    `shares` are the parts of the kinds of batches; `warmup` counts steps, `decay_from` is the part
    of the run after which the learning rates fall to zero. `sharded` spreads weights, gradients
    and optimiser over the processes (FSDP2) in place of a copy in each.
    """

    steps: int = 1000
    batch: int = 48
    accumulation: int = 1
    muon_rate: float = 5e-3
    learning_rate: float = 1e-3
    warmup: int = 100
    decay_from: float = 0.35
    average: float = 0.999
    shares: tuple[float, ...] = (1.0,)
    report_every: int = 250
    seed: int = 2
    sharded: bool = False


class Objective(Protocol):
    """What a stage learns, and from which examples."""

    def prepare(self) -> None:
        """Make the first examples, where none came with a checkpoint."""

    def refresh(self, kind: int, step: int) -> None:
        """Renew a few examples of the kind that is about to be drawn."""

    def loss(self, kind: int) -> Tensor:
        """The mean loss of a fresh batch."""

    def state_dict(self) -> dict[str, Any]:
        """The examples in memory."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""

    @property
    def rng(self) -> np.random.Generator:
        """What examples are drawn from; the loop keeps its state, and torch's."""


class Loop:
    """A module being trained on an objective; `run` goes to the recipe's last step."""

    def __init__(
        self,
        module: nn.Module,
        objective: Objective,
        *,
        recipe: LoopRecipe,
        is_matrix: Callable[[str, nn.Parameter], bool],
        folder: Path,
        name: str,
    ) -> None:
        self.module, self.objective, self.recipe = module, objective, recipe
        self.folder, self.name = folder, name
        self.rank, self.world = distributed.start()
        if recipe.sharded:
            sharding.shard(module)
        named = [(n, p) for n, p in module.named_parameters() if p.requires_grad]
        self.optimiser = Optimisers(named, is_matrix, recipe.muon_rate, recipe.learning_rate)
        self.average = checkpoints.Average(module, recipe.average)
        self.curves = Curves(folder / name) if self.rank == 0 else None
        self.step = 0
        self.before_report: Callable[[Loop], None] | None = None
        self.on_report: Callable[[Loop], None] | None = None
        # a stage and how far it is, from 0 to 1; only the first process tells
        self.on_progress: Callable[[str, float], None] | None = None

    def run(self) -> None:
        """Go on from the last checkpoint, if there is one."""
        self._tell("examples", 0.0)
        self._resume()
        self._tell("examples", 1.0)
        start, first, losses = time.time(), self.step, []
        recipe = self.recipe
        while self.step < recipe.steps:
            losses.append(self._step())
            self._tell(self.name, self.step / recipe.steps)
            if self.step % recipe.report_every == 0 or self.step == recipe.steps:
                samples = (self.step - first) * recipe.batch * recipe.accumulation * self.world
                self._report(sum(losses) / len(losses), samples / (time.time() - start))
                losses = []

    def _tell(self, stage: str, fraction: float) -> None:
        if self.on_progress is not None and self.rank == 0:
            self.on_progress(stage, fraction)

    def _step(self) -> float:
        recipe, total = self.recipe, 0.0
        for part in range(recipe.accumulation):
            number = self.step * recipe.accumulation + part
            kind = distributed.shared_choice(recipe.seed, number, recipe.shares)
            self.objective.refresh(kind, number)
            loss = self.objective.loss(kind) / recipe.accumulation
            torch.autograd.backward(loss)
            total += loss.item()
        if not recipe.sharded:
            distributed.average_gradients(self.optimiser.parameters)
        factor = schedule(self.step, recipe.steps, recipe.warmup, recipe.decay_from)
        self.optimiser.step(factor)
        self.step += 1
        self.average.update(self.module, self.step)
        return total

    def _resume(self) -> None:
        torch.manual_seed(self.recipe.seed)
        state = checkpoints.load(self._path)
        if state is not None:
            sharding.load_into(self.module, state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]
            self.average.load(state["average"])
        own = checkpoints.load(self._own_path)
        if own is not None and (own["step"], own["world"]) == (self.step, self.world):
            self.objective.load_state_dict(own["objective"])
            self.objective.rng.bit_generator.state = own["random"]
            torch.set_rng_state(own["torch_random"])
            return
        if state is not None:
            _log.warning("%s: goes on at step %d with other examples", self.name, self.step)
        torch.manual_seed(self.recipe.seed + 7919 * self.rank + self.step)
        fresh = np.random.default_rng([self.recipe.seed, self.rank, self.step])
        self.objective.rng.bit_generator.state = fresh.bit_generator.state
        self.objective.prepare()

    def _report(self, loss: float, rate: float) -> None:
        """Save, draw the curves, let the caller look. Every process takes part."""
        if self.before_report is not None:
            self.before_report(self)
        own = {
            "step": self.step,
            "world": self.world,
            "objective": self.objective.state_dict(),
            "random": self.objective.rng.bit_generator.state,
            "torch_random": torch.get_rng_state(),
        }
        checkpoints.save(self._own_path, own)
        state = {
            "model": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values,
            "step": self.step,
        }
        whole = sharding.gathered(state) if self.recipe.sharded else state
        if self.curves is None:
            return
        checkpoints.save(self._path, whole)
        checkpoints.log_progress(self.folder / f"{self.name}.jsonl", self.step, loss, rate)
        self.curves.add(self.step, {"loss": loss, "samples_per_second": rate})
        if self.on_report is not None:
            self.on_report(self)

    def whole_average(self) -> dict[str, Tensor]:
        """The averaged weights as the last checkpoint has them, on the CPU."""
        state = checkpoints.load(self._path)
        assert state is not None
        return dict(state["average"])

    @property
    def _path(self) -> Path:
        return self.folder / f"{self.name}.safetensors"

    @property
    def _own_path(self) -> Path:
        return self.folder / f"{self.name}-{self.rank}.safetensors"
