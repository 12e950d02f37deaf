"""Sigmas, timesteps and noise against the published tables and diffusers."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from diffusers.utils.torch_utils import randn_tensor

from kleinod.diffusion.latents import sample_noise
from kleinod.diffusion.sampling import euler_step, guided, sigmas, timestep

# klein-facts E.1: width, height, steps, sigmas
TABLE = [
    (64, 64, [1, 0.95451534, 0.87492412, 0.69985425, 0]),
    (256, 256, [1, 0.95539075, 0.87713426, 0.70411170, 0]),
    (512, 512, [1, 0.95808536, 0.88398188, 0.71749657, 0]),
    (768, 768, [1, 0.96223372, 0.89465779, 0.73896867, 0]),
    (1024, 1024, [1, 0.96738404, 0.90814394, 0.76719993, 0]),
    (1360, 768, [1, 0.96734118, 0.90803069, 0.76695758, 0]),
    (1536, 1536, [1, 0.95751828, 0.88253504, 0.71464390, 0]),
    (2048, 2048, [1, 0.98698556, 0.96194726, 0.89391536, 0]),
    (1024, 1024, [1.0, 0]),
    (1024, 1024, [1, 0.90911072, 0]),
    (
        1024,
        1024,
        [1, 0.98542547, 0.96664113, 0.94151473, 0.90618259, 0.85284168, 0.76301450, 0.57980675, 0],
    ),
]


def _mine(width: int, height: int, steps: int) -> torch.Tensor:
    return sigmas(steps, (width // 16) * (height // 16))


@pytest.mark.parametrize(("width", "height", "expected"), TABLE)
def test_sigmas_equal_the_table(width: int, height: int, expected: list[float]) -> None:
    mine = _mine(width, height, len(expected) - 1)
    assert torch.allclose(mine, torch.tensor(expected), atol=1e-6, rtol=0)


def test_fifty_sigmas_equal_the_tables_ends() -> None:
    mine = _mine(1024, 1024, 50)
    assert len(mine) == 51
    start, end = [1, 0.997309, 0.994521, 0.991632], [0.325593, 0.239631, 0.133719, 0]
    assert torch.allclose(mine[:4], torch.tensor(start), atol=1e-6, rtol=0)
    assert torch.allclose(mine[-4:], torch.tensor(end), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps", [1, 3, 4, 8, 20, 50])
@pytest.mark.parametrize("size", [(64, 512), (1024, 1024), (1056, 1056), (2048, 1024)])
def test_sigmas_equal_diffusers(steps: int, size: tuple[int, int]) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, time_shift_type="exponential"
    )
    mu = compute_empirical_mu((size[0] // 16) * (size[1] // 16), steps)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=mu)
    assert torch.allclose(_mine(*size, steps), scheduler.sigmas, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1024, [1000, 968, 908, 768]),
        (512, [1000, 960, 884, 716]),
        (256, [1000, 956, 876, 704]),
    ],
)
def test_bfloat16_timesteps_round_as_the_reference(size: int, expected: list[float]) -> None:
    schedule = _mine(size, size, 4)[:-1]
    # as the transformer takes them: times 1000 once more, in bfloat16
    effective = [float(timestep(sigma, torch.bfloat16) * 1000) for sigma in schedule]
    assert effective == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_seed_gives_diffusers_noise(dtype: torch.dtype) -> None:
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 42)]
    theirs = randn_tensor(
        (2, 128, 6, 9), generator=generators, device=torch.device("cpu"), dtype=dtype
    )
    assert torch.equal(sample_noise([0, 42], 96, 144).to(dtype), theirs)


def test_guidance_moves_from_without_to_with() -> None:
    with_prompt, without = torch.tensor([3.0]), torch.tensor([1.0])
    assert guided([with_prompt, without], 4.0) == 9.0
    assert guided([with_prompt], 4.0) is with_prompt


def test_euler_step_keeps_the_velocitys_dtype() -> None:
    latents, velocity = torch.ones(2).bfloat16(), torch.full((2,), 0.5).bfloat16()
    stepped = euler_step(latents, velocity, torch.tensor(1.0), torch.tensor(0.5))
    assert stepped.dtype == torch.bfloat16
    assert stepped.tolist() == [0.75, 0.75]
