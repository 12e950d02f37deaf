"""Train text encoder and transformer together as a rectified flow.

x_sigma = (1 - sigma) clean + sigma noise; the transformer learns noise - clean. Sigmas are
logit-normal, then shifted as the sampler shifts them. A tenth of the captions is empty, so that the
model can be guided. References are further tokens at T = 10, 20, … and carry no noise.
"""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kleinod import latents
from kleinod.config import TextEncoderConfig, TransformerConfig
from kleinod.models.autoencoder import Autoencoder
from kleinod.models.text_encoder import TextEncoder
from kleinod.models.tokenizer import Tokenizer
from kleinod.models.transformer import Transformer
from kleinod.training import checkpoints, distributed
from kleinod.training.layouts import SIZE
from kleinod.training.optimiser import Optimisers, schedule
from kleinod.training.pool import Pool
from kleinod.training.scenes import Composer


@dataclass(frozen=True)
class FlowRecipe:
    """How to train. `shares` are the parts of the pools' batches, in their order."""

    steps: int = 4600
    batch: int = 48
    muon_rate: float = 5e-3
    learning_rate: float = 1e-3
    shift: float = 1.2
    spread: float = 1.1
    dropout: float = 0.1
    average: float = 0.999
    fresh: int = 6
    first_examples: int = 512
    shares: tuple[float, ...] = (0.78, 0.16, 0.06)
    seed: int = 2
    compile: bool = True


class Flow(nn.Module):
    """Text encoder and transformer of one size: velocity of tokens from prompts."""

    def __init__(
        self, config: TransformerConfig, text: TextEncoderConfig, layers: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.transformer = Transformer(config)
        self.text_encoder = TextEncoder(text, layers)

    def forward(
        self, tokens: Tensor, times: Tensor, ids: Tensor, mask: Tensor, positions: Tensor
    ) -> Tensor:
        """tokens (b, l, 128) with references appended; positions (l, 4); velocity (b, l, 128)."""
        text = self.text_encoder(ids, mask)
        text_positions = latents.text_position_ids(ids.shape[1])
        return self.transformer(tokens, times, text, positions, text_positions)


@contextmanager
def training_precision() -> Iterator[None]:
    """bfloat16 autocast; attention by plain matmuls, whose backward is faster when short."""
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
        yield


def reference_positions(grid: tuple[int, int], references: int) -> Tensor:
    """Position ids (l, 4) of a target of (rows, columns) and of references of the same size."""
    grids = [latents.image_position_ids(*grid, 10 * n) for n in range(references + 1)]
    return torch.cat(grids)


def sample_sigmas(count: int, recipe: FlowRecipe) -> Tensor:
    """(count,) in (0, 1): logit-normal of the recipe's spread, shifted towards noise."""
    return torch.sigmoid(recipe.spread * torch.randn(count) + recipe.shift)


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """Muon takes the inner matrices; embeddings, ends and norms stay with AdamW."""
    ends = ("embed_tokens", "img_in", "final_layer.linear", "time_in.in_layer")
    return parameter.ndim == 2 and not any(end in name for end in ends)


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


class FlowTrainer:
    """Everything a run needs; `run` trains to the recipe's last step and saves on the way."""

    def __init__(
        self,
        flow: Flow,
        recipe: FlowRecipe,
        pools: list[Pool],
        tools: tuple[Composer, Autoencoder, Tokenizer],
        folder: Path,
    ) -> None:
        self.flow, self.recipe, self.pools, self.tools = flow, recipe, pools, tools
        self.folder = folder
        named = list(flow.named_parameters())
        self.optimiser = Optimisers(named, is_matrix, recipe.muon_rate, recipe.learning_rate)
        self.average = checkpoints.Average(flow, recipe.average)
        self.empty = tools[2].encode([""])
        self.positions = [reference_positions(pool.grid, pool.pictures - 1) for pool in pools]
        # only the common size is worth a compiled graph of each kind
        compiled = torch.compile(flow, dynamic=False) if recipe.compile else flow
        self.velocities = [compiled if pool.size == (SIZE, SIZE) else flow for pool in pools]
        self.step = 0
        self.on_report: Callable[[FlowTrainer], None] | None = None

    def run(self) -> None:
        """Go on from the last checkpoint, if there is one.

        Under torchrun every process draws its own examples, and the gradients are averaged.
        """
        rank, world = distributed.start()
        torch.manual_seed(self.recipe.seed)
        self._resume()
        if rank:
            torch.manual_seed(self.recipe.seed + 7919 * rank + self.step)
            self.tools[0].rng = np.random.default_rng([self.recipe.seed, rank, self.step])
        for pool in self.pools:
            while pool.count < min(self.recipe.first_examples, pool.capacity // 2):
                pool.refill(64, *self.tools)
        start, first, losses = time.time(), self.step, []
        while self.step < self.recipe.steps:
            kind = distributed.shared_choice(self.recipe.seed, self.step, self.recipe.shares)
            self.pools[kind].refill(self.recipe.fresh, *self.tools)
            loss = self._loss(kind)
            torch.autograd.backward(loss)
            distributed.average_gradients(self.optimiser.parameters)
            self.optimiser.step(schedule(self.step, self.recipe.steps, 100, 0.35))
            self.step += 1
            self.average.update(self.flow, self.step)
            losses.append(loss.item())
            if self.step % 250 == 0 or self.step == self.recipe.steps:
                rate = (self.step - first) * self.recipe.batch * world / (time.time() - start)
                if rank == 0:
                    self._report(sum(losses) / len(losses), rate)
                losses = []

    def _loss(self, kind: int) -> Tensor:
        pool = self.pools[kind]
        tokens, ids, mask = pool.draw(pool.batch(self.recipe.batch))
        dropped = torch.rand(len(ids)) < self.recipe.dropout
        ids[dropped], mask[dropped] = self.empty[0], self.empty[1]
        clean, references = tokens[:, 0], tokens[:, 1:].flatten(1, 2)
        sigmas = sample_sigmas(len(ids), self.recipe)
        noise = torch.randn_like(clean)
        noised = clean.lerp(noise, sigmas[:, None, None])
        with training_precision():
            joined = torch.cat((noised, references), dim=1)
            made = self.velocities[kind](joined, sigmas, ids, mask, self.positions[kind])
        return F.mse_loss(made[:, : clean.shape[1]].float(), noise - clean)

    def _resume(self) -> None:
        state = checkpoints.load(self.folder / "flow.safetensors")
        if state is None:
            initialise(self.flow)
            self.average = checkpoints.Average(self.flow, self.recipe.average)
            return
        self.flow.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.average.values = state["average"]
        self.step = state["step"]
        torch.set_rng_state(state["torch_random"])
        self.tools[0].rng.bit_generator.state = json.loads(state["scene_random"])

    def _report(self, loss: float, rate: float) -> None:
        checkpoints.log_progress(self.folder / "flow.jsonl", self.step, loss, rate)
        state = {
            "model": self.flow.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "average": self.average.values,
            "step": self.step,
            "torch_random": torch.get_rng_state(),
            "scene_random": json.dumps(self.tools[0].rng.bit_generator.state),
        }
        checkpoints.save(self.folder / "flow.safetensors", state)
        if self.on_report is not None:
            self.on_report(self)
