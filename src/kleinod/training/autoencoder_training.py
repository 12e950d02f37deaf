"""Train an autoencoder in klein's layout on composed scenes.

First on 64-px crops, the last part on whole pictures. Latents get noise of random strength while
training, so that the decoder forgives the flow's errors; their batch statistics are measured at the
end, as klein stores them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.config import AutoencoderConfig
from kleinod.icons.scenes import Composer, Scene
from kleinod.models.autoencoder import Autoencoder
from kleinod.training import checkpoints
from kleinod.training.flow import autocast
from kleinod.training.loop import Loop, LoopRecipe


@dataclass(frozen=True)
class AutoencoderRecipe(LoopRecipe):
    """How to train. `whole_share` of the steps see whole pictures, a quarter as many."""

    steps: int = 2000
    batch: int = 16
    muon_rate: float = 0.008
    warmup: int = 50
    decay_from: float = 0.5
    report_every: int = 200
    latent_noise: float = 0.12
    whole_share: float = 0.15
    decoder_only: bool = False
    statistics: int = 2048
    seed: int = 1


def any_scene(composer: Composer) -> Scene:
    """A single object or a pair, as the flow will see them."""
    return (composer.single() if composer.rng.random() < 0.6 else composer.pair())[0]


def picture_batch(composer: Composer, count: int, crop: int) -> Tensor:
    """Pictures (count, 3, crop, crop) in [-1, 1], channels last; four crops of each scene."""
    pictures: list[np.ndarray] = []
    while len(pictures) < count:
        whole = composer.render(any_scene(composer))
        for _ in range(4 if crop < whole.shape[0] else 1):
            top, left = composer.rng.integers(0, whole.shape[0] - crop + 1, 2)
            pictures.append(whole[top : top + crop, left : left + crop])
    stacked = torch.from_numpy(np.stack(pictures[:count])).permute(0, 3, 1, 2)
    return (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _mean(model: Autoencoder, pictures: Tensor) -> Tensor:
    return model.quant_conv(model.encoder(pictures)).chunk(2, dim=1)[0]


def reconstruction_loss(made: Tensor, wanted: Tensor) -> Tensor:
    """Absolute and squared error, and the absolute error of neighbouring differences (edges)."""
    loss = F.l1_loss(made, wanted) + F.mse_loss(made, wanted)
    for dim in (2, 3):
        loss = loss + 0.5 * F.l1_loss(made.diff(dim=dim), wanted.diff(dim=dim))
    return loss


def _loss(model: Autoencoder, pictures: Tensor, recipe: AutoencoderRecipe) -> Tensor:
    with autocast():
        if recipe.decoder_only:
            with torch.no_grad():
                mean = _mean(model, pictures)
        else:
            mean = _mean(model, pictures)
        spread = 2 * recipe.latent_noise * mean.detach().float().std()
        strength = spread * torch.rand(len(mean), 1, 1, 1)
        noised = mean + strength * torch.randn_like(mean)
        made = model.decoder(model.post_quant_conv(noised))
    # a weak pull to zero keeps the latents' scale from growing against the noise
    return reconstruction_loss(made.float(), pictures) + 1e-3 * mean.float().pow(2).mean()


@torch.no_grad()
def measure_statistics(model: Autoencoder, composer: Composer, count: int = 2048) -> None:
    """Set the batch-norm buffers to the mean and variance of patchified latents."""
    parts = []
    for _ in range(count // 64):
        with autocast():
            mean = _mean(model, picture_batch(composer, 64, 128))
        parts.append(F.pixel_unshuffle(mean.float(), 2).transpose(0, 1).flatten(1))
    latents = torch.cat(parts, dim=1)
    assert model.bn.running_mean is not None and model.bn.running_var is not None
    model.bn.running_mean.copy_(latents.mean(1))
    model.bn.running_var.copy_(latents.var(1))


@torch.no_grad()
def psnr(model: Autoencoder, composer: Composer, count: int = 64) -> float:
    """Decibels of the mean squared error over whole pictures, peak to peak 2."""
    pictures = picture_batch(composer, count, 128)
    made = model.decode(model.encode(pictures)).clamp(-1, 1)
    return float(10 * torch.log10(4 / F.mse_loss(made, pictures)))


class AutoencoderObjective:
    """Reconstruction of composed scenes from noised latents."""

    def __init__(self, model: Autoencoder, recipe: AutoencoderRecipe, composer: Composer) -> None:
        self.model, self.recipe, self.composer = model, recipe, composer
        self.sees_whole = False

    def prepare(self) -> None:
        """Nothing is kept in memory."""

    def refresh(self, kind: int, step: int) -> None:
        """Crops first, whole pictures at the end."""
        steps = self.recipe.steps * self.recipe.accumulation
        self.sees_whole = step > steps * (1 - self.recipe.whole_share)

    def loss(self, kind: int) -> Tensor:
        """Of fresh scenes."""
        size = 128 if self.sees_whole else 64
        pictures = picture_batch(self.composer, self.batch_size(kind), size)
        return _loss(self.model, pictures, self.recipe)

    def batch_size(self, kind: int) -> int:
        """A quarter for whole pictures."""
        return self.recipe.batch // 4 if self.sees_whole else self.recipe.batch

    @property
    def rng(self) -> np.random.Generator:
        """The scenes'."""
        return self.composer.rng

    def state_dict(self) -> dict[str, Any]:
        """Nothing, as said."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing, as said."""


def train_autoencoder(
    config: AutoencoderConfig, recipe: AutoencoderRecipe, composer: Composer, folder: Path
) -> Autoencoder:
    """Train or go on, saving in `folder`; returns the model with its statistics."""
    torch.manual_seed(recipe.seed)
    model = Autoencoder(config)
    initialise(model)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    if recipe.decoder_only:
        model.load_state_dict(_existing(folder)["model"])
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.startswith(("decoder.", "post_quant_conv.")))
    objective = AutoencoderObjective(model, recipe, composer)
    name = "decoder" if recipe.decoder_only else "autoencoder"
    loop = Loop(model, objective, recipe=recipe, is_matrix=_is_matrix, folder=folder, name=name)

    def measured(loop: Loop) -> None:
        if not recipe.decoder_only:
            count = recipe.statistics if loop.step == recipe.steps else 256
            measure_statistics(model, composer, count)
        print(f"step {loop.step}: {psnr(model, composer):.2f} dB", flush=True)

    loop.before_report = measured
    loop.run()
    return model.eval()


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim >= 2 and parameter.numel() > 1000


def initialise(model: Autoencoder) -> None:
    """Keep the signal's size along the main path and start the residual branches near zero.

    PyTorch's default shrinks it by 0.58 per convolution, and the branches drown what is left.
    """
    for name, part in model.named_modules():
        if not isinstance(part, nn.Conv2d | nn.Linear):
            continue
        assert part.bias is not None
        nn.init.zeros_(part.bias)
        if name.endswith(("conv2", "to_out.0")):
            nn.init.normal_(part.weight, std=0.1 * part.weight[0].numel() ** -0.5)
        elif name.endswith("decoder.conv_out"):
            nn.init.orthogonal_(part.weight, gain=0.3)
        else:
            rows, columns = part.weight.flatten(1).shape
            nn.init.orthogonal_(part.weight, gain=max(1.0, rows / columns) ** 0.5)


def _existing(folder: Path) -> dict[str, dict[str, Tensor]]:
    state = checkpoints.load(folder / "autoencoder.safetensors")
    if state is None:
        raise FileNotFoundError(
            f"{folder}/autoencoder.safetensors is missing; train the autoencoder first"
        )
    return state
