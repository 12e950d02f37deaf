"""Muon for matrices, AdamW for the rest, behind one optimiser.

Muon (K. Jordan, 2024): momentum, then an approximate orthogonalisation of the update by five
Newton-Schulz steps. Convolutions count as matrices (out, in * k * k).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kleinod.compute.matmul import product_dtype
from kleinod.errors import NumericalError
from kleinod.training import sharding


def orthogonalised(matrix: Tensor) -> Tensor:
    """The matrix (m, n) with its singular values drawn near 1.

    In bfloat16, which suffices here, or in what the device multiplies in its place.
    """
    x = matrix.to(product_dtype(torch.bfloat16, matrix.device))
    x = x / (x.norm() + 1e-7)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Updates every parameter of two or more dimensions by an orthogonalised momentum."""

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float, momentum: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update; parameters without a gradient are left."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if "momentum" not in state:
                    state["momentum"] = torch.zeros_like(parameter)
                momentum = state["momentum"].mul_(group["momentum"]).add_(parameter.grad)
                update = parameter.grad.add(momentum, alpha=group["momentum"]).flatten(1)
                scale = max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                # sharded (FSDP2): the whole matrix is needed, and every process computes it
                change = orthogonalised(sharding.whole(update)).to(parameter.dtype)
                change = sharding.spread_like(change.reshape(parameter.shape), parameter)
                parameter.add_(change, alpha=-group["lr"] * scale)


class Optimisers:
    """Muon and AdamW over one model, stepped, scheduled and saved together.

    `is_matrix` says by name which parameters Muon takes (embeddings and outputs stay with AdamW).
    """

    def __init__(
        self,
        named: list[tuple[str, nn.Parameter]],
        is_matrix: Callable[[str, nn.Parameter], bool],
        muon_rate: float,
        adam_rate: float,
    ) -> None:
        matrices = [p for n, p in named if is_matrix(n, p)]
        rest = [p for n, p in named if not is_matrix(n, p)]
        self.parameters = matrices + rest
        self._parts = [
            (Muon(matrices, muon_rate, 0.95), muon_rate),
            (torch.optim.AdamW(rest, adam_rate, betas=(0.9, 0.99), weight_decay=0), adam_rate),
        ]

    def step(self, factor: float, clip: float = 1.0) -> None:
        """Clip, update with the learning rates times `factor`, and forget the gradients.

        Raises NumericalError, before anything is updated, if the gradient norm is not finite.
        """
        self.check_gradients(clip)
        for part, rate in self._parts:
            for group in part.param_groups:
                group["lr"] = rate * factor
            part.step()
        self.zero_grad()

    def check_gradients(self, clip: float = math.inf) -> None:
        """Scale the gradients to a norm of at most `clip`. Raises NumericalError."""
        norm = sharding.whole(torch.nn.utils.clip_grad_norm_(self.parameters, clip))
        if not norm.isfinite():
            self.zero_grad()
            raise NumericalError("the gradient norm is not finite")

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part, _ in self._parts:
            part.zero_grad()

    def state_dict(self) -> list[dict[str, Any]]:
        """Both states."""
        return [part.state_dict() for part, _ in self._parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Go on from `state_dict`."""
        for (part, _), state in zip(self._parts, states, strict=True):
            part.load_state_dict(state)
            for parameter, kept in part.state.items():
                for name, value in kept.items():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        kept[name] = sharding.spread_like(value, parameter)


def schedule(step: int, steps: int, warmup: int = 50, decay_from: float = 0.5) -> float:
    """Learning-rate factor: linear warm-up, flat, linear to 0 over the last part.

    `warmup` 0 or 1 starts at the full rate, `decay_from` 1 stays there.
    """
    left = (steps - step) / steps
    rise = min(1.0, (step + 1) / max(warmup, 1))
    return rise * (1.0 if decay_from >= 1 else min(1.0, left / (1 - decay_from)))
