"""The stage that trains text encoder and transformer together as a rectified flow."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.training import sharding
from kleinod.training.flow import (
    Flow,
    is_matrix,
    reference_positions,
    sample_sigmas,
    training_attention,
    training_precision,
)
from kleinod.training.loop import Loop, LoopRecipe
from kleinod.training.pool import Pool, Tools, velocities

# examples between two reports of progress
_FILLED_AT_ONCE = 64


@dataclass(frozen=True)
class FlowRecipe(LoopRecipe):
    """How to train a flow. `shares` are the parts of the pools' batches, in their order.

    `fresh` examples are made anew before a batch; `compiled_size` (width, height) is the size whose
    pools are worth a compiled graph each; `checkpointing` computes activations twice and saves
    memory.
    """

    steps: int = 4600
    shift: float = 1.2
    spread: float = 1.1
    dropout: float = 0.1
    fresh: int = 6
    first_examples: int = 512
    compiled_size: tuple[int, int] | None = None
    checkpointing: bool = False


class FlowObjective:
    """mean (velocity - (noise - clean))² over a batch of one pool."""

    def __init__(self, flow: Flow, recipe: FlowRecipe, pools: list[Pool], tools: Tools) -> None:
        self.recipe, self.pools, self.tools = recipe, pools, tools
        first = next(flow.parameters())
        self.device, self.dtype = first.device, first.dtype
        self.empty = tools.tokenizer.encode([""])
        self.positions = [reference_positions(pool.grid, pool.pictures - 1) for pool in pools]
        self.velocities = velocities(flow, pools, recipe.compiled_size)
        # how far `prepare` is, from 0 to 1
        self.on_prepare: Callable[[float], None] = lambda fraction: None

    @property
    def rng(self) -> np.random.Generator:
        """The examples'."""
        return self.tools.rng

    def prepare(self) -> None:
        """Fill every pool; at most by half if it is renewed, so that the ring turns at once."""
        for index, pool in enumerate(self.pools):
            room = pool.capacity // 2 if self.recipe.fresh else pool.capacity
            wanted = min(self.recipe.first_examples, room)
            while pool.count < wanted:
                pool.fill(min(pool.count + _FILLED_AT_ONCE, wanted), self.tools)
                self.on_prepare((index + pool.count / wanted) / len(self.pools))

    def refresh(self, kind: int, step: int) -> None:
        """A few new examples."""
        if self.recipe.fresh:
            self.pools[kind].refill(self.recipe.fresh, self.tools)

    def loss(self, kind: int) -> Tensor:
        """Of a fresh batch, with fresh noise and sigmas."""
        pool = self.pools[kind]
        tokens, ids, mask = pool.draw(pool.batch(self.recipe.batch))
        dropped = torch.rand(len(ids)) < self.recipe.dropout
        ids[dropped], mask[dropped] = self.empty[0], self.empty[1]
        clean, references = tokens[:, 0], tokens[:, 1:].flatten(1, 2)
        sigmas = sample_sigmas(len(ids), self.recipe.spread, self.recipe.shift)
        noise = torch.randn_like(clean)
        joined = torch.cat((clean.lerp(noise, sigmas[:, None, None]), references), dim=1)
        inputs = (x.to(self.device) for x in (joined, sigmas, ids, mask))
        with training_precision(self.device.type, self.dtype):
            made = self.velocities[kind](*inputs, self.positions[kind])
        return F.mse_loss(made[:, : clean.shape[1]].float(), (noise - clean).to(self.device))

    def batch_size(self, kind: int) -> int:
        """Fewer than the recipe's for large pictures: `Pool.batch`."""
        return self.pools[kind].batch(self.recipe.batch)

    def state_dict(self) -> dict[str, Any]:
        """The pools."""
        return {"pools": [pool.state_dict() for pool in self.pools]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        for pool, saved in zip(self.pools, state["pools"], strict=True):
            pool.load_state_dict(saved)


def initialise(flow: Flow) -> None:
    """Small normal weights; modulation, gates and the output start at zero."""
    for name, parameter in flow.named_parameters():
        if parameter.ndim < 2:
            continue
        nn.init.normal_(parameter, std=0.7 * parameter.shape[-1] ** -0.5)
        if any(part in name for part in ("modulation", "final_layer")):
            nn.init.zeros_(parameter)
        elif "embed_tokens" in name:
            nn.init.normal_(parameter, std=1.0)


def flow_loop(
    flow: Flow, recipe: FlowRecipe, *, pools: list[Pool], tools: Tools, folder: Path
) -> Loop:
    """The stage, ready to run; its checkpoints are folder/flow*.safetensors."""
    if recipe.checkpointing:
        device = next(flow.parameters()).device.type
        sharding.checkpoint_activations(flow, lambda: training_attention(device))
    objective = FlowObjective(flow, recipe, pools, tools)
    return Loop(flow, objective, recipe=recipe, is_matrix=is_matrix, folder=folder, name="flow")
