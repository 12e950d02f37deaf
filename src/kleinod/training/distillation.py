"""Distil a guided many-step flow into one of few steps without guidance.

The teacher paints from noise with guidance along its own path and leaves its tokens at each of the
student's sigmas. Between two of them the path is a chord, and the student learns its slope,

    velocity = (x[i + 1] - x[i]) / (sigma[i + 1] - sigma[i]),

so that one Euler step of the student does what several guided steps of the teacher did. Guidance
and steps are distilled together; nothing in it knows the model's size.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod import sampling
from kleinod.training import checkpoints, distributed
from kleinod.training.flow import Flow, is_matrix, reference_positions, training_precision
from kleinod.training.layouts import SIZE
from kleinod.training.optimiser import Optimisers, schedule
from kleinod.training.pool import Pool
from kleinod.training.sampling import Velocity, euler


@dataclass(frozen=True)
class DistillationRecipe:
    """`substeps` teacher steps make one of the student's `num_steps`."""

    steps: int = 360
    batch: int = 48
    num_steps: int = 4
    substeps: int = 2
    guidance: float = 3.0
    muon_rate: float = 1.5e-3
    learning_rate: float = 2e-4
    average: float = 0.99
    first_paths: int = 384
    refill_every: int = 12
    shares: tuple[float, ...] = (0.8, 0.14, 0.06)
    seed: int = 3
    compile: bool = True


def teacher_sigmas(recipe: DistillationRecipe, num_tokens: int) -> tuple[Tensor, Tensor]:
    """The student's sigmas (n + 1,) and the teacher's (n * substeps + 1,), which contain them.

    Between two of the student's sigmas the teacher's lie evenly in unshifted time.
    """
    mu = sampling.shift_mu(num_tokens, recipe.num_steps)
    student = sampling.sigmas(recipe.num_steps, num_tokens)
    times = torch.linspace(1, 0, recipe.num_steps * recipe.substeps + 1, dtype=torch.float64)
    ratio = torch.tensor(mu, dtype=torch.float64).exp()
    teacher = (ratio * times / (ratio * times + 1 - times)).float()
    assert torch.allclose(teacher[:: recipe.substeps], student, atol=1e-6)
    return student, teacher


class Paths:
    """A ring of the teacher's paths of one kind: tokens at the student's sigmas, and conditions."""

    def __init__(self, examples: Pool, recipe: DistillationRecipe, capacity: int) -> None:
        self.examples, self.recipe, self.capacity = examples, recipe, capacity
        self.positions = reference_positions(examples.grid, examples.pictures - 1)
        self.student, self.teacher = teacher_sigmas(recipe, examples.grid[0] * examples.grid[1])
        self.rows: list[tuple[Tensor, ...]] = []

    def refill(self, number: int, teacher: Velocity, empty: tuple[Tensor, Tensor]) -> None:
        """Paint `number` more; the oldest go once the ring is full."""
        tokens, ids, mask = self.examples.draw(number)
        references = tokens[:, 1:].flatten(1, 2)
        noise = torch.randn_like(tokens[:, 0])
        words = torch.cat((ids, empty[0])), torch.cat((mask, empty[1]))
        states = euler(
            teacher,
            noise,
            self.teacher,
            words,
            references=references,
            positions=self.positions,
            guidance=self.recipe.guidance,
        )
        corners = torch.stack([noise, *states[self.recipe.substeps - 1 :: self.recipe.substeps]], 1)
        new = zip(corners.bfloat16(), references.bfloat16(), ids, mask, strict=True)
        self.rows = [*self.rows, *new][-self.capacity :]

    def draw(self, number: int) -> tuple[Tensor, ...]:
        """Corners (n, steps + 1, l, 128), references (n, r, 128), ids and mask (n, t)."""
        chosen = [self.rows[i] for i in torch.randint(len(self.rows), (number,)).tolist()]
        corners, references, ids, mask = (torch.stack(x) for x in zip(*chosen, strict=True))
        return corners.float(), references.float(), ids, mask


class Distillation:
    """A frozen teacher, its paths, and the student that follows them."""

    def __init__(
        self,
        teacher: Flow,
        student: Flow,
        *,
        recipe: DistillationRecipe,
        paths: list[Paths],
        empty: tuple[Tensor, Tensor],
        folder: Path,
    ) -> None:
        self.teacher, self.student, self.recipe, self.paths = teacher, student, recipe, paths
        self.empty, self.folder = empty, folder
        student.requires_grad_(True)
        named = list(student.named_parameters())
        self.optimiser = Optimisers(named, is_matrix, recipe.muon_rate, recipe.learning_rate)
        self.average = checkpoints.Average(student, recipe.average)
        compiled = torch.compile(student, dynamic=False) if recipe.compile else student
        self.velocities = [
            compiled if part.examples.size == (SIZE, SIZE) else student for part in paths
        ]
        self.step = 0
        self.on_report: Callable[[Distillation], None] | None = None

    def run(self) -> None:
        """Go on from the last checkpoint, if there is one, to the recipe's last step."""
        rank, world = distributed.start()
        self._resume()
        torch.manual_seed(self.recipe.seed + 7919 * rank + self.step)
        for paths, share in zip(self.paths, self.recipe.shares, strict=True):
            wanted = max(48, round(self.recipe.first_paths * share))
            while len(paths.rows) < wanted:
                paths.refill(paths.examples.batch(48), self.teacher, self.empty)
        start, first, losses = time.time(), self.step, []
        while self.step < self.recipe.steps:
            kind = distributed.shared_choice(self.recipe.seed, self.step, self.recipe.shares)
            if self.step % self.recipe.refill_every == 0:
                fresh = self.paths[kind].examples.batch(48)
                self.paths[kind].refill(fresh, self.teacher, self.empty)
            loss = self._loss(kind)
            torch.autograd.backward(loss)
            distributed.average_gradients(self.optimiser.parameters)
            self.optimiser.step(schedule(self.step, self.recipe.steps, 20, 0.3))
            self.step += 1
            self.average.update(self.student, self.step)
            losses.append(loss.item())
            if rank == 0 and (self.step % 100 == 0 or self.step == self.recipe.steps):
                rate = (self.step - first) * self.recipe.batch * world / (time.time() - start)
                self._report(sum(losses) / len(losses), rate)
                losses = []

    def _loss(self, kind: int) -> Tensor:
        paths, velocity = self.paths[kind], self.velocities[kind]
        corners, references, ids, mask = paths.draw(paths.examples.batch(self.recipe.batch))
        index = torch.randint(self.recipe.num_steps, (len(corners),))
        rows = torch.arange(len(corners))
        now, then = corners[rows, index], corners[rows, index + 1]
        sigma, after = paths.student[index], paths.student[index + 1]
        slope = (then - now) / (after - sigma)[:, None, None]
        with training_precision():
            joined = torch.cat((now, references), dim=1)
            made = velocity(joined, sigma, ids, mask, paths.positions)
        return F.mse_loss(made[:, : now.shape[1]].float(), slope)

    def _resume(self) -> None:
        state = checkpoints.load(self.folder / "distilled.safetensors")
        if state is None:
            self.average = checkpoints.Average(self.student, self.recipe.average)
            return
        self.student.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.values = state["average"]
        self.step = state["step"]

    def _report(self, loss: float, rate: float) -> None:
        checkpoints.log_progress(self.folder / "distilled.jsonl", self.step, loss, rate)
        state = {
            "model": self.student.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values,
            "step": self.step,
        }
        checkpoints.save(self.folder / "distilled.safetensors", state)
        if self.on_report is not None:
            self.on_report(self)
