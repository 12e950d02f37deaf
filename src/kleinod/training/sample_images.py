"""Sampling while training: guided Euler steps of a flow, and sheets of pictures to look at."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kleinod import images
from kleinod.diffusion import latents, sampling
from kleinod.training.flow import Flow, reference_positions, training_precision
from kleinod.training.pool import Tools

Words = tuple[Tensor, Tensor]
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


@torch.no_grad()
def guided_velocity(
    flow: Velocity,
    tokens: Tensor,
    sigma: Tensor,
    words: Words,
    *,
    positions: Tensor,
    guidance: float,
) -> Tensor:
    """Velocity (b, l, 128) of tokens with references appended; `words` ids and mask (b, t), then
    the empty prompt's (1, t) behind them when guidance is over 1."""
    times = sigma.expand(len(tokens))
    ids, mask = words
    if guidance == 1.0:
        with training_precision():
            return flow(tokens, times, ids[: len(tokens)], mask[: len(tokens)], positions).float()
    all_ids, all_mask = (
        torch.cat((x[: len(tokens)], x[-1:].expand(len(tokens), -1))) for x in words
    )
    with training_precision():
        both = flow(tokens.repeat(2, 1, 1), times.repeat(2), all_ids, all_mask, positions).float()
    with_words, without = both.chunk(2)
    return without + guidance * (with_words - without)


@torch.no_grad()
def euler(
    flow: Velocity,
    start: Tensor,
    sigmas: Tensor,
    words: Words,
    *,
    references: Tensor,
    positions: Tensor,
    guidance: float,
) -> list[Tensor]:
    """The tokens (b, l, 128) after each step from sigmas[0] to sigmas[-1]."""
    x, states = start, []
    for sigma, after in pairwise(sigmas):
        joined = torch.cat((x, references), dim=1)
        made = guided_velocity(flow, joined, sigma, words, positions=positions, guidance=guidance)
        x = x + (after - sigma) * made[:, : x.shape[1]]
        states.append(x)
    return states


@torch.no_grad()
def sheet(
    flow: Flow,
    tools: Tools,
    prompts: Sequence[str],
    *,
    path: Path,
    num_steps: int,
    guidance: float,
) -> None:
    """Paint prompts at 128 pixels into one picture, eight in a row, always from the same noise."""
    noise = latents.latents_to_tokens(latents.sample_noise(list(range(len(prompts))), 128, 128))
    words = tools.tokenizer.encode([*prompts, ""])
    states = euler(
        flow,
        noise,
        sampling.sigmas(num_steps, 64),
        words,
        references=noise[:, :0],
        positions=reference_positions((8, 8), 0),
        guidance=guidance,
    )
    pictures = images.to_images(
        tools.autoencoder.decode(latents.tokens_to_latents(states[-1], 8, 8))
    )
    rows = -(-len(pictures) // 8)
    whole = Image.new("RGB", (8 * 128, rows * 128))
    for index, picture in enumerate(pictures):
        whole.paste(picture, (index % 8 * 128, index // 8 * 128))
    whole.save(path)
