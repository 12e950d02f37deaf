"""The loop of every stage: loss, gradients, update, average, report, checkpoint.

What is learned is an objective's business. A checkpoint is two kinds of files: NAME.safetensors
with model, optimiser, average and step, written by the first process; and NAME-RANK.safetensors
with what each process draws from (examples in memory and random states). With both, a run that was
stopped goes on to the same bits as one that was not; if the second kind is missing or of another
step or number of processes, it goes on with other examples, and says so.

A checkpoint is good: before it replaces the last one, a batch is tried with its weights, and a loss
or gradient that is not finite ends the run with the last one kept. A signal (Ctrl-C, SIGTERM, a
closed terminal) ends it after the step, with a checkpoint.
"""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from kleinod.errors import InputError, NumericalError
from kleinod.training import checkpoints, distributed, interruption, sharding
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

    def batch_size(self, kind: int) -> int:
        """How many examples `loss` of a kind takes."""

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
        self.step = self._num_samples = 0
        # the step of the checkpoint on the disk
        self.saved_step: int | None = None
        # what a checkpoint is for: stored in it, and compared by who resumes
        self.identity: dict[str, Any] = {}
        # kinds that are tried before the first step: what does not fit in memory fails at once
        self.trial_kinds: tuple[int, ...] = ()
        self.on_record: Callable[[dict[str, Any]], None] = _print_record
        self.before_report: Callable[[Loop], None] | None = None
        self.on_report: Callable[[Loop], None] | None = None
        # a stage and how far it is, from 0 to 1; only the first process tells
        self.on_progress: Callable[[str, float], None] | None = None

    def run(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Raises NumericalError where the loss leaves the finite numbers, TrainingInterrupted after a
        signal, InputError for a checkpoint that does not fit, and KleinodError for a full disk.
        """
        self._tell("examples", 0.0)
        self._resume()
        self._tell("examples", 1.0)
        if self.step < self.recipe.steps:
            for kind in self.trial_kinds:
                self._try(kind)
        with interruption.deferred(is_alone=self.world == 1) as received:
            self._run_steps(received)

    def _run_steps(self, received: Callable[[], int | None]) -> None:
        start, losses = time.perf_counter(), []
        recipe, self._num_samples = self.recipe, 0
        while self.step < recipe.steps:
            losses.append(self._step())
            self._tell(self.name, self.step / recipe.steps)
            signal_number = distributed.any_signal(received())
            if self.step % recipe.report_every == 0 or self.step == recipe.steps:
                seconds = max(time.perf_counter() - start, 1e-9)
                samples = self._num_samples * self.world
                self._report(sum(losses) / len(losses), samples / seconds)
                losses = []
            if signal_number is not None and self.step < recipe.steps:
                if self.saved_step != self.step:
                    self._save()
                raise interruption.TrainingInterrupted(self.step, recipe.steps, signal_number)

    def tell_examples(self, fraction: float) -> None:
        """How far the first examples are."""
        self._tell("examples", fraction)

    def _tell(self, stage: str, fraction: float) -> None:
        if self.on_progress is not None and self.rank == 0:
            self.on_progress(stage, fraction)

    def _step(self) -> float:
        recipe, total = self.recipe, 0.0
        for part in range(recipe.accumulation):
            number = self.step * recipe.accumulation + part
            kind = self._kind(number)
            self.objective.refresh(kind, number)
            self._num_samples += self.objective.batch_size(kind)
            total += self._backward(kind, 1 / recipe.accumulation)
        factor = schedule(self.step, recipe.steps, recipe.warmup, recipe.decay_from)
        with self._finite_gradients(total):
            self.optimiser.step(factor)
        self.step += 1
        self.average.update(self.module, self.step)
        return total

    def _kind(self, number: int) -> int:
        """The kind of the batch of a number, the same in every process."""
        return distributed.shared_choice(self.recipe.seed, number, self.recipe.shares)

    def _backward(self, kind: int, weight: float) -> float:
        """Add a batch's gradients times a weight; its loss times the same."""
        loss = self.objective.loss(kind) * weight
        torch.autograd.backward(loss)
        return loss.item()

    @contextmanager
    def _finite_gradients(self, loss: float) -> Iterator[None]:
        """What is done with the gradients of all processes. Raises NumericalError before it."""
        if not self.recipe.sharded:
            distributed.average_gradients(self.optimiser.parameters)
        try:
            if not math.isfinite(loss):
                raise NumericalError("the loss is not finite")
            yield
        except NumericalError as error:
            raise NumericalError(self._diverged(str(error))) from error

    def _try(self, kind: int) -> None:
        """A batch without an update, random states put back. Raises NumericalError."""
        state = self.objective.rng.bit_generator.state
        with torch.random.fork_rng(devices=[]):
            loss = self._backward(kind, 1.0)
        self.objective.rng.bit_generator.state = state
        with self._finite_gradients(loss):
            self.optimiser.check_gradients()
        self.optimiser.zero_grad()

    def _diverged(self, what: str) -> str:
        """The line for a user whose run left the finite numbers."""
        message = f"training: {what} with the weights of step {self.step}"
        if self.step == 0:
            return f"{message}, before any update; check the model, or set weights float32"
        kept = "there is no checkpoint yet"
        if self.saved_step is not None:
            kept = f"the checkpoint of step {self.saved_step} is kept"
        remedy = "set a smaller learning rate (learning_rate, muon_rate) and run it again"
        return f"{message}; {kept}; {remedy}"

    def _resume(self) -> None:
        torch.manual_seed(self.recipe.seed)
        if self.rank == 0:
            checkpoints.remove_partial(self.folder)
        state = checkpoints.load(self._path)
        if state is not None:
            self._take(state)
        own = checkpoints.load(self._own_path)
        if own is not None and self._is_current(own):
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

    def _take(self, state: dict[str, Any]) -> None:
        """Weights, optimiser, average and step of a checkpoint. Raises InputError."""
        broken = checkpoints.first_not_finite(state)
        if broken is not None:
            raise InputError(
                f"run: {broken} in {self._path} is not finite; delete it to start again"
            )
        try:
            sharding.load_into(self.module, state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.average.load(state["average"])
            self.step = self.saved_step = state["step"]
        except (RuntimeError, ValueError, LookupError) as error:
            raise InputError(
                f"run: {self._path} belongs to another model or to other settings; name another "
                "run folder, or delete this one to start again"
            ) from error

    def _is_current(self, own: dict[str, Any]) -> bool:
        """Whether a process's examples are of this step, number of processes and data."""
        is_same_data = own.get("data") == self.identity.get("data")
        return (own["step"], own["world"]) == (self.step, self.world) and is_same_data

    def _report(self, loss: float, rate: float) -> None:
        """Try, save, draw the curves, let the caller look. Every process takes part."""
        self._try(self._kind(self.step * self.recipe.accumulation))
        if self.before_report is not None:
            self.before_report(self)
        self._save()
        if self.curves is None:
            return
        # four decimals, as far as a loss says anything
        record = {"step": self.step, "loss": round(loss, 4), "samples_per_second": round(rate, 1)}
        checkpoints.append_record(self.folder / f"{self.name}.jsonl", record)
        self.on_record(record)
        self.curves.add(self.step, {"loss": loss, "samples_per_second": rate})
        if self.on_report is not None:
            self.on_report(self)

    def _save(self) -> None:
        """Write the checkpoint. Every process takes part. Raises NumericalError, KleinodError."""
        own = {
            "step": self.step,
            "world": self.world,
            "data": self.identity.get("data"),
            "objective": self.objective.state_dict(),
            "random": self.objective.rng.bit_generator.state,
            "torch_random": torch.get_rng_state(),
        }
        state = {
            "model": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values,
            "step": self.step,
            "identity": self.identity,
        }
        whole = sharding.gathered(state) if self.recipe.sharded else state
        if self.rank == 0:
            broken = checkpoints.first_not_finite(whole)
            if broken is not None:
                raise NumericalError(self._diverged(f"{broken} is not finite"))
            checkpoints.save(self._path, whole)
        checkpoints.save(self._own_path, own)
        self.saved_step = self.step

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


def _print_record(record: dict[str, Any]) -> None:
    print(checkpoints.json_line(record), flush=True)
