"""Train the oracle, and state what it can be trusted with on composed scenes.

Its ceiling: the share of real compositions, passed through the autoencoder, that it names right.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.evaluation.judge import Oracle, OracleNetwork
from kleinod.evaluation.judge_examples import Batch, Examples
from kleinod.icons.icons import STYLES
from kleinod.icons.layouts import TINTS
from kleinod.training.flow import autocast
from kleinod.training.optimiser import Optimisers, schedule


@dataclass(frozen=True)
class OracleRecipe:
    """How to train: steps, windows a step, learning rates, canvases in the pool."""

    steps: int = 1500
    batch: int = 112
    muon_rate: float = 0.01
    learning_rate: float = 2e-3
    canvases: int = 1500
    encoded: int = 1000
    distortions: int = 1800
    seed: int = 5


def train_oracle(
    examples: Examples,
    recipe: OracleRecipe,
    *,
    report: Callable[[int, float, float], None],
    start: Oracle | None = None,
) -> Oracle:
    """An oracle over the examples' icons, from nothing or going on from `start`;
    report(step, loss, share right) every 100 steps."""
    torch.manual_seed(recipe.seed)
    names = examples.icons.names
    network = OracleNetwork(len(names), len(STYLES), len(TINTS)).to(
        memory_format=torch.channels_last
    )  # type: ignore[call-overload]  # torch's stubs lack it
    if start is not None:
        network.load_state_dict(start.network.state_dict())
    named = list(network.named_parameters())
    optimiser = Optimisers(named, _is_matrix, recipe.muon_rate, recipe.learning_rate)
    examples.prepare(recipe.canvases, recipe.encoded, recipe.distortions)
    right: list[float] = []
    for step in range(recipe.steps):
        loss, share = _loss(network, examples.batch(recipe.batch))
        torch.autograd.backward(loss)
        optimiser.step(schedule(step, recipe.steps, 100, 0.3))
        right.append(share)
        if (step + 1) % 100 == 0:
            report(step + 1, loss.item(), sum(right) / len(right))
            right = []
    return Oracle(network.eval(), names, STYLES, TINTS)


def _loss(network: OracleNetwork, batch: Batch) -> tuple[Tensor, float]:
    windows = batch.windows.contiguous(memory_format=torch.channels_last)
    with autocast():
        concepts, styles, tints, places = (made.float() for made in network(windows))
    loss = F.cross_entropy(concepts, batch.concepts, label_smoothing=0.02)
    clear = batch.styles >= 0
    loss = loss + 0.5 * F.cross_entropy(styles[clear], batch.styles[clear])
    loss = loss + 0.3 * F.cross_entropy(tints[clear], batch.tints[clear])
    loss = loss + 4 * F.smooth_l1_loss(places[clear], batch.places[clear], beta=0.02)
    return loss, float((concepts.argmax(1) == batch.concepts).float().mean())


def _is_matrix(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and name.startswith("trunk") and name != "trunk.0.weight"
