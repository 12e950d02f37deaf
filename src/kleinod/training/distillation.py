"""Distil a guided many-step flow into one of few steps without guidance.

The teacher paints from noise with guidance along its own path and leaves its tokens at each of the
student's sigmas. Between two of them the path is a chord, and the student learns its slope,

    velocity = (x[i + 1] - x[i]) / (sigma[i + 1] - sigma[i]),

so that one Euler step of the student does what several guided steps of the teacher did. Guidance
and steps are distilled together; nothing in it knows the model's size.

But the student, painting alone, does not stay on the teacher's path, and what it made blurred in
one step it has never seen in the next. So a part of the chords starts where the student itself has
come to, and ends where the teacher goes from there (learning by correction on one's own states:
Ross et al., 2011).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.diffusion import sampling
from kleinod.training.flow import Flow, is_matrix, reference_positions, training_precision
from kleinod.training.loop import Loop, LoopRecipe
from kleinod.training.pool import Pool, Tools, velocities
from kleinod.training.sample_images import Velocity, Words, euler


@dataclass(frozen=True)
class DistillationRecipe(LoopRecipe):
    """`substeps` teacher steps make one of the student's `num_steps`.

    `first_paths` are painted before the first step, 48 more every `refill_every` steps, after
    `fresh` new examples to start from. The part `own` of those paths begins each of its chords at a
    state that the student has come to by itself.
    """

    steps: int = 360
    num_steps: int = 4
    substeps: int = 2
    guidance: float = 3.0
    muon_rate: float = 1.5e-3
    learning_rate: float = 2e-4
    warmup: int = 20
    decay_from: float = 0.3
    average: float = 0.99
    report_every: int = 100
    first_paths: int = 384
    first_examples: int = 768
    fresh: int = 0
    refill_every: int = 12
    own: float = 0.5
    seed: int = 3
    compiled_size: tuple[int, int] | None = None
    name: str = "distilled"


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
    """A ring of chords of one kind: where each of the student's steps starts and where it leads.

    They start from the pool's examples and fresh noise. With `shown`, a pool of the same rows, the
    teacher sees those examples, and the student learns to answer its own in the same way.
    `guidance` is this kind's own, where it should not be the recipe's.
    """

    def __init__(
        self,
        examples: Pool,
        recipe: DistillationRecipe,
        capacity: int,
        *,
        shown: Pool | None = None,
        guidance: float | None = None,
    ) -> None:
        self.examples, self.recipe, self.capacity = examples, recipe, capacity
        self.shown = shown
        self.guidance = recipe.guidance if guidance is None else guidance
        self.positions = reference_positions(examples.grid, examples.pictures - 1)
        self.student, self.teacher = teacher_sigmas(recipe, examples.grid[0] * examples.grid[1])
        self.rows: list[tuple[Tensor, ...]] = []

    @property
    def pools(self) -> tuple[Pool, ...]:
        """The student's examples, then the teacher's where they are others."""
        return (self.examples,) if self.shown is None else (self.examples, self.shown)

    def refill(
        self,
        number: int,
        teacher: Velocity,
        empty: tuple[Tensor, Tensor],
        *,
        student: Velocity | None = None,
    ) -> None:
        """Paint `number` more, on the student's own way if it is given.

        The oldest go once the ring is full.
        """
        drawn = torch.randint(self.examples.count, (number,))
        tokens, ids, mask = self.examples.at(drawn)
        references = tokens[:, 1:].flatten(1, 2)
        seen, *words = (tokens, ids, mask) if self.shown is None else self.shown.at(drawn)
        words = [torch.cat(pair) for pair in zip(words, empty, strict=True)]

        def led(start: Tensor, sigmas: Tensor) -> list[Tensor]:
            return euler(
                *(teacher, start, sigmas, (words[0], words[1])),
                references=seen[:, 1:].flatten(1, 2),
                positions=self.positions,
                guidance=self.guidance,
            )

        noise, each = torch.randn_like(tokens[:, 0]), self.recipe.substeps
        if student is None:
            ends = led(noise, self.teacher)[each - 1 :: each]
            starts = [noise, *ends[:-1]]
        else:
            starts = [noise, *self._alone(student, noise, (ids, mask), references)]
            parts = (self.teacher[each * i : each * (i + 1) + 1] for i in range(len(starts)))
            ends = [led(*pair)[-1] for pair in zip(starts, parts, strict=True)]
        chords = (torch.stack(states, 1).bfloat16() for states in (starts, ends))
        new = zip(*chords, references.bfloat16(), ids, mask, strict=True)
        self.rows = [*self.rows, *new][-self.capacity :]

    def _alone(
        self, student: Velocity, noise: Tensor, words: Words, references: Tensor
    ) -> list[Tensor]:
        """Where the student comes to from noise, at every sigma between the first and the last."""
        return euler(
            *(student, noise, self.student[:-1], words),
            references=references,
            positions=self.positions,
            guidance=1.0,
        )

    def draw(self, number: int) -> tuple[Tensor, ...]:
        """Starts and ends (n, steps, l, 128), references (n, r, 128), ids and mask (n, t)."""
        chosen = [self.rows[i] for i in torch.randint(len(self.rows), (number,)).tolist()]
        starts, ends, references, ids, mask = (torch.stack(x) for x in zip(*chosen, strict=True))
        return starts.float(), ends.float(), references.float(), ids, mask


class DistillationObjective:
    """mean (velocity - slope of the teacher's chord)² over a batch of one kind of paths."""

    def __init__(
        self,
        teacher: Flow,
        student: Flow,
        *,
        recipe: DistillationRecipe,
        paths: list[Paths],
        tools: Tools,
    ) -> None:
        self.teacher, self.student = teacher, student
        self.recipe, self.paths, self.tools = recipe, paths, tools
        self.empty = tools.tokenizer.encode([""])
        pools = [part.examples for part in paths]
        self.velocities = velocities(student, pools, recipe.compiled_size)

    @property
    def rng(self) -> np.random.Generator:
        """The examples'."""
        return self.tools.rng

    def prepare(self) -> None:
        """Examples of every kind, and the teacher's first paths, by their shares."""
        for paths, share in zip(self.paths, self.recipe.shares, strict=True):
            for pool in paths.pools:
                pool.fill(self.recipe.first_examples, self.tools)
            while len(paths.rows) < max(48, round(self.recipe.first_paths * share)):
                paths.refill(paths.examples.batch(48), self.teacher, self.empty)

    def refresh(self, kind: int, step: int) -> None:
        """Now and then new examples, and more paths."""
        every, own = self.recipe.refill_every, self.recipe.own
        if step % every == 0:
            paths, turn = self.paths[kind], step // every
            is_own = int((turn + 1) * own) > int(turn * own)
            number, student = paths.examples.batch(48), self.student if is_own else None
            for pool in paths.pools if self.recipe.fresh else ():
                pool.refill(self.recipe.fresh, self.tools)
            paths.refill(number, self.teacher, self.empty, student=student)

    def loss(self, kind: int) -> Tensor:
        """Of a fresh batch, each at one of the student's sigmas."""
        paths = self.paths[kind]
        starts, ends, references, ids, mask = paths.draw(paths.examples.batch(self.recipe.batch))
        index = torch.randint(self.recipe.num_steps, (len(starts),))
        rows = torch.arange(len(starts))
        now, then = starts[rows, index], ends[rows, index]
        sigma, after = paths.student[index], paths.student[index + 1]
        slope = (then - now) / (after - sigma)[:, None, None]
        with training_precision():
            joined = torch.cat((now, references), dim=1)
            made = self.velocities[kind](joined, sigma, ids, mask, paths.positions)
        return F.mse_loss(made[:, : now.shape[1]].float(), slope)

    def batch_size(self, kind: int) -> int:
        """Fewer than the recipe's for large pictures: `Pool.batch`."""
        return self.paths[kind].examples.batch(self.recipe.batch)

    def state_dict(self) -> dict[str, Any]:
        """The paths and the examples that they start from."""
        return {
            "rows": [[torch.stack(x) for x in zip(*p.rows, strict=True)] for p in self.paths],
            "examples": [paths.examples.state_dict() for paths in self.paths],
            "shown": [p.shown.state_dict() for p in self.paths if p.shown is not None],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        saved = zip(self.paths, state["rows"], state["examples"], strict=True)
        for paths, rows, examples in saved:
            paths.rows = list(zip(*rows, strict=True))
            paths.examples.load_state_dict(examples)
        shown = [paths.shown for paths in self.paths if paths.shown is not None]
        for pool, kept in zip(shown, state["shown"], strict=True):
            pool.load_state_dict(kept)


def distillation_loop(
    teacher: Flow,
    student: Flow,
    recipe: DistillationRecipe,
    *,
    paths: list[Paths],
    tools: Tools,
    folder: Path,
) -> Loop:
    """The stage, ready to run; its checkpoints are folder/NAME*.safetensors."""
    student.requires_grad_(True)
    frozen = teacher.eval().requires_grad_(False)
    objective = DistillationObjective(frozen, student, recipe=recipe, paths=paths, tools=tools)
    return Loop(
        student, objective, recipe=recipe, is_matrix=is_matrix, folder=folder, name=recipe.name
    )
