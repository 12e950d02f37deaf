"""The autoencoder: pictures (b, 3, h, w) in [-1, 1] to normalised latents (b, 128, h/16, w/16).

Attribute names are diffusers'. The mean is kept, nothing is sampled. Source: klein-facts C.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kleinod.compute.attention import attention
from kleinod.config import AutoencoderConfig
from kleinod.errors import InputError
from kleinod.models import tiled_decode

NO_ENCODER = (
    "reference_images: this autoencoder is a decoder only and cannot read pictures; give a whole "
    "autoencoder (full_encoder_small_decoder.safetensors has the same decoder), or no reference"
)


class ResnetBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut."""

    def __init__(self, in_dim: int, out_dim: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, in_dim, eps=1e-6)
        self.conv1 = nn.Conv2d(in_dim, out_dim, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, out_dim, eps=1e-6)
        self.conv2 = nn.Conv2d(out_dim, out_dim, 3, padding=1)
        if in_dim != out_dim:
            self.conv_shortcut = nn.Conv2d(in_dim, out_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) to (b, out, h, w)."""
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.conv_shortcut(x) if hasattr(self, "conv_shortcut") else x)


class AttentionBlock(nn.Module):
    """One head over all positions."""

    def __init__(self, dim: int, groups: int) -> None:
        super().__init__()
        self.group_norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(dim, dim)])

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same."""
        tokens = self.group_norm(x.flatten(2)).transpose(1, 2)
        q, k, v = (proj(tokens)[:, :, None] for proj in (self.to_q, self.to_k, self.to_v))
        out = self.to_out[0](attention(q, k, v))
        return x + out.transpose(1, 2).unflatten(2, x.shape[-2:])


class MidBlock(nn.Module):
    """Resnet, attention, resnet."""

    def __init__(self, dim: int, config: AutoencoderConfig) -> None:
        super().__init__()
        groups = config.norm_num_groups
        self.resnets = nn.ModuleList(ResnetBlock(dim, dim, groups) for _ in range(2))
        if config.mid_block_add_attention:
            self.attentions = nn.ModuleList([AttentionBlock(dim, groups)])

    def forward(self, x: Tensor) -> Tensor:
        """(b, c, h, w) to the same."""
        x = self.resnets[0](x)
        x = self.attentions[0](x) if hasattr(self, "attentions") else x
        return self.resnets[1](x)


class _Sampler(nn.Module):
    def __init__(self, dim: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim, dim, 3, stride=stride, padding=1 if stride == 1 else 0)

    def forward(self, x: Tensor) -> Tensor:
        if self.conv.stride[0] == 2:
            return self.conv(F.pad(x, (0, 1, 0, 1)))
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class Level(nn.Module):
    """The resnets of one resolution, then the change of resolution."""

    def __init__(self, dims: tuple[int, int], depth: int, groups: int, sampler: str) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(dims[0] if i == 0 else dims[1], dims[1], groups) for i in range(depth)
        )
        if sampler:
            setattr(
                self, sampler, nn.ModuleList([_Sampler(dims[1], 2 if "down" in sampler else 1)])
            )

    def forward(self, x: Tensor) -> Tensor:
        """(b, in, h, w) to (b, out, h', w')."""
        for resnet in self.resnets:
            x = resnet(x)
        for name in ("downsamplers", "upsamplers"):
            x = getattr(self, name)[0](x) if hasattr(self, name) else x
        return x


class _Stack(nn.Module):
    def _ends(self, dims: tuple[int, int, int, int], groups: int) -> None:
        self.conv_in = nn.Conv2d(dims[0], dims[1], 3, padding=1)
        self.conv_norm_out = nn.GroupNorm(groups, dims[2], eps=1e-6)
        self.conv_out = nn.Conv2d(dims[2], dims[3], 3, padding=1)

    def _levels(
        self, dims: tuple[int, ...], depth: int, groups: int, sampler: str
    ) -> nn.ModuleList:
        before = (dims[0], *dims[:-1])
        last = len(dims) - 1
        return nn.ModuleList(
            Level((before[i], dims[i]), depth, groups, sampler if i < last else "")
            for i in range(len(dims))
        )


class Encoder(_Stack):
    """Picture to moments."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dims, groups = config.block_out_channels, config.norm_num_groups
        ends = (config.in_channels, dims[0], dims[-1], 2 * config.latent_channels)
        self._ends(ends, groups)
        self.down_blocks = self._levels(dims, config.layers_per_block, groups, "downsamplers")
        self.mid_block = MidBlock(dims[-1], config)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 3, h, w) to (b, 64, h/8, w/8)."""
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(self.mid_block(x))))


class Decoder(_Stack):
    """Latents to picture."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        dims = (config.decoder_block_out_channels or config.block_out_channels)[::-1]
        groups = config.norm_num_groups
        self._ends((config.latent_channels, dims[0], dims[-1], config.in_channels), groups)
        self.up_blocks = self._levels(dims, config.layers_per_block + 1, groups, "upsamplers")
        self.mid_block = MidBlock(dims[0], config)

    def forward(self, x: Tensor) -> Tensor:
        """(b, 32, h/8, w/8) to (b, 3, h, w)."""
        is_large = 64 * x.shape[-2] * x.shape[-1] > tiled_decode.PLAIN_PIXELS
        if is_large and not torch.is_grad_enabled():
            return tiled_decode.decoded(self, x)
        x = self.mid_block(self.conv_in(x))
        for block in self.up_blocks:
            x = block(x)
        return self.conv_out(F.silu(self.conv_norm_out(x)))


class Autoencoder(nn.Module):
    """klein's autoencoder of any width, or its decoder alone (`config.has_encoder`)."""

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        c = config.latent_channels
        self.config = config
        self.decoder = Decoder(config)
        if config.has_encoder:
            self.encoder = Encoder(config)
            self.quant_conv = nn.Conv2d(2 * c, 2 * c, 1)
        self.post_quant_conv = nn.Conv2d(c, c, 1)
        self.bn = nn.BatchNorm2d(4 * c, eps=config.batch_norm_eps, affine=False)

    def encode(self, images: Tensor) -> Tensor:
        """Normalised latents (b, 128, h/16, w/16) of images (b, 3, h, w) in [-1, 1].

        Raises InputError without an encoder.
        """
        self.check_encoder()
        given, images = images.dtype, images.to(self.dtype)
        mean = self.quant_conv(self.encoder(images)).chunk(2, dim=1)[0]
        latents = F.pixel_unshuffle(mean, 2)
        centre, spread = self._statistics(latents)
        return ((latents - centre) / spread).to(given)

    def check_encoder(self) -> None:
        """Raise InputError where there is a decoder only, for requests with reference pictures."""
        if not self.config.has_encoder:
            raise InputError(NO_ENCODER)

    def decode(self, latents: Tensor) -> Tensor:
        """Images (b, 3, h, w), about [-1, 1], of normalised latents (b, 128, h/16, w/16)."""
        given, latents = latents.dtype, latents.to(self.dtype)
        centre, spread = self._statistics(latents)
        scaled = F.pixel_shuffle(latents * spread + centre, 2)
        return self.decoder(self.post_quant_conv(scaled)).to(given)

    @property
    def dtype(self) -> torch.dtype:
        """The weights'; what is given in another is converted, and what is made, back."""
        return self.post_quant_conv.weight.dtype

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        variance = self.bn.running_var.to(like) + self.config.batch_norm_eps
        return self.bn.running_mean.to(like)[:, None, None], torch.sqrt(variance)[:, None, None]
