"""Noise, tokens and position ids. Latents are (b, 128, h, w) with h = H/16, w = W/16."""

import torch
from torch import Tensor


def sample_noise(seeds: list[int], height: int, width: int) -> Tensor:
    """Float32 noise (b, 128, height/16, width/16), one CPU draw per seed."""
    shape = (1, 128, height // 16, width // 16)
    draws = [torch.randn(shape, generator=torch.Generator().manual_seed(s)) for s in seeds]
    return torch.cat(draws)


def latents_to_tokens(latents: Tensor) -> Tensor:
    """(b, 128, h, w) to (b, h*w, 128), row by row."""
    return latents.flatten(2).transpose(1, 2)


def tokens_to_latents(tokens: Tensor, height: int, width: int) -> Tensor:
    """(b, h*w, 128) back to (b, 128, h, w)."""
    return tokens.transpose(1, 2).reshape(len(tokens), -1, height, width)


def image_position_ids(height: int, width: int, time: int = 0) -> Tensor:
    """(time, row, column, 0) for h*w tokens; a reference i has time 10 * (i + 1)."""
    t = torch.tensor([time])
    grid = torch.cartesian_prod(t, torch.arange(height), torch.arange(width), torch.zeros(1).long())
    return grid


def text_position_ids(length: int) -> Tensor:
    """(0, 0, 0, k) for the k-th text token."""
    ids = torch.zeros(length, 4, dtype=torch.long)
    ids[:, 3] = torch.arange(length)
    return ids
