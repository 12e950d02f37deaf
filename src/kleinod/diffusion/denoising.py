"""Pictures being painted: what each keeps between two steps, and one step of several together.

    x_next = x + (sigma_next - sigma) * velocity(x, sigma, text, references)

Each picture has its own sigma, prompt, references and guidance; those of one shape share a pass of
the transformer, and whichever stands in a pass may leave or join before the next. Knows nothing
about where text and references come from.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kleinod.diffusion import latents, sampling


@dataclass(frozen=True)
class Shape:
    """What pictures have in common to share a pass. Rows and columns are the latents'."""

    height: int
    width: int
    reference_grids: tuple[tuple[int, int], ...]
    num_text_tokens: int
    is_guided: bool

    @property
    def num_tokens(self) -> int:
        """Tokens that one picture brings into a pass."""
        references = sum(height * width for height, width in self.reference_grids)
        return self.height * self.width + references + self.num_text_tokens

    def position_ids(self) -> Tensor:
        """(l, 4) of the picture's tokens, then the references'."""
        grids = [latents.image_position_ids(self.height, self.width)]
        for index, (height, width) in enumerate(self.reference_grids, start=1):
            grids.append(latents.image_position_ids(height, width, 10 * index))
        return torch.cat(grids)


@dataclass(frozen=True)
class Conditions:
    """What every step of a picture sees.

    texts: (1, t, context) for each pass, with the prompt first; reference_tokens: (1, n, 128);
    sigmas: steps + 1 values from 1 to 0.
    """

    texts: tuple[Tensor, ...]
    reference_tokens: Tensor
    sigmas: Tensor
    guidance_scale: float


@dataclass
class Painting:
    """One picture under way: tokens (1, l, 128) after `index` steps, the velocity of the last."""

    shape: Shape
    conditions: Conditions
    tokens: Tensor
    velocity: Tensor | None = None
    index: int = 0
    is_finite: bool = True

    @property
    def num_steps(self) -> int:
        """Steps from noise to picture."""
        return len(self.conditions.sigmas) - 1

    @property
    def is_finished(self) -> bool:
        """Whether all steps are done."""
        return self.index == self.num_steps

    @property
    def latents(self) -> Tensor:
        """(1, 128, h, w) after the last step."""
        return latents.tokens_to_latents(self.tokens, self.shape.height, self.shape.width)

    @property
    def clean_latents(self) -> Tensor:
        """(1, 128, h, w) of the picture as the last velocity foresees it: x - sigma * velocity."""
        assert self.velocity is not None
        sigma = self.conditions.sigmas[self.index]
        clean = self.tokens.float() - sigma * self.velocity.float()
        return latents.tokens_to_latents(clean, self.shape.height, self.shape.width)


Velocity = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def advance(paintings: Sequence[Painting], transformer: Velocity) -> None:
    """One step of each of several paintings of one shape; all of them, or none if it raises.

    One whose latents leave the finite numbers is marked (on an accelerator after the last step of
    any of them: what is not finite stays so), the others are not touched by that.
    """
    shape = paintings[0].shape
    assert all(painting.shape == shape for painting in paintings)
    velocities = _velocities(paintings, transformer)
    rows = [[v[i : i + 1] for v in velocities] for i in range(len(paintings))]
    moved = [_moved(painting, row) for painting, row in zip(paintings, rows, strict=True)]
    # an accelerator is looked at when a picture is done: each look waits for it
    is_looked_at = moved[0][0].device.type == "cpu" or any(
        p.index + 1 == p.num_steps for p in paintings
    )
    # one look for all; a second only where something is wrong
    is_finite = not is_looked_at or _are_finite([tokens for tokens, _ in moved])
    for painting, (tokens, velocity) in zip(paintings, moved, strict=True):
        painting.tokens, painting.velocity = tokens, velocity
        painting.index += 1
        painting.is_finite = is_finite or _are_finite([tokens])


def _are_finite(latents: list[Tensor]) -> bool:
    return bool(torch.isfinite(torch.cat(latents)).all())


def _velocities(paintings: Sequence[Painting], transformer: Velocity) -> list[Tensor]:
    """Velocities (b, l, 128) of each pass: with the prompts, and under guidance without."""
    shape, first = paintings[0].shape, paintings[0].tokens
    sigmas = [painting.conditions.sigmas[painting.index] for painting in paintings]
    times = torch.stack([sampling.timestep(sigma, first.dtype) for sigma in sigmas])
    times = times.to(first.device, non_blocking=True)
    tokens = torch.cat(
        [torch.cat((p.tokens, p.conditions.reference_tokens), dim=1) for p in paintings]
    )
    ids, text_ids = shape.position_ids(), latents.text_position_ids(shape.num_text_tokens)
    velocities = []
    for group in zip(*(painting.conditions.texts for painting in paintings), strict=True):
        velocity = transformer(tokens, times, torch.cat(group), ids, text_ids)
        velocities.append(velocity[:, : first.shape[1]])
    return velocities


def _moved(painting: Painting, velocities: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Tokens after the step, and the velocity. By itself: a scale per row would round otherwise."""
    sigmas, index = painting.conditions.sigmas, painting.index
    velocity = sampling.guided(velocities, painting.conditions.guidance_scale)
    moved = sampling.euler_step(painting.tokens, velocity, sigmas[index], sigmas[index + 1])
    return moved, velocity
