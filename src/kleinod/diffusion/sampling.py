"""Sigmas of the rectified flow and its Euler step. Source: klein-facts E.1, E.2."""

import math

import torch
from torch import Tensor


def shift_mu(num_tokens: int, num_steps: int) -> float:
    """The empirical shift for num_tokens image tokens (references not counted)."""
    m200 = 0.00016927 * num_tokens + 0.45666666
    if num_tokens > 4300:
        return m200
    m10 = 8.73809524e-05 * num_tokens + 1.89833333
    slope = (m200 - m10) / 190
    return slope * num_steps + m200 - 200 * slope


def sigmas(num_steps: int, num_tokens: int) -> Tensor:
    """num_steps + 1 float32 values from 1 to 0."""
    ratio = math.exp(shift_mu(num_tokens, num_steps))
    times = torch.linspace(1, 1 / num_steps, num_steps, dtype=torch.float64)
    shifted = ratio / (ratio + 1 / times - 1)
    return torch.cat((shifted, torch.zeros(1, dtype=torch.float64))).float()


def timestep(sigma: Tensor, dtype: torch.dtype) -> Tensor:
    """The transformer's input for sigma: rounded to dtype as 1000 * sigma, then divided in it.

    So does diffusers, and a bfloat16 picture depends on it. Source: klein-facts A.4.
    """
    return (sigma * 1000).to(dtype) / 1000


def guided(velocities: list[Tensor], guidance_scale: float) -> Tensor:
    """Classifier-free guidance over [with prompt, without]; a single velocity stays as it is."""
    if len(velocities) == 1:
        return velocities[0]
    with_prompt, without = velocities
    return without + guidance_scale * (with_prompt - without)


def euler_step(latents: Tensor, velocity: Tensor, sigma: Tensor, sigma_next: Tensor) -> Tensor:
    """One step in float32, cast back to the velocity's dtype."""
    return (latents.float() + (sigma_next - sigma) * velocity).to(velocity.dtype)
