"""Geometry of the components, read from the configuration files of the diffusers layout.

No torch in here. Each default is the published klein value.
"""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Self

from kleinod import fileio
from kleinod.errors import InputError, WeightsError


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file. Raises WeightsError."""
    try:
        values = fileio.read_json(path, "model")
    except InputError as error:
        raise WeightsError(f"{error}, or fetch the model again") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: holds no JSON object; fetch the model again")
    return values


@dataclass(frozen=True)
class _Config:
    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Take the known fields of a configuration file; lists become tuples, the rest is left."""
        names = {field.name for field in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        return cls(**{n: tuple(v) if isinstance(v, list) else v for n, v in known.items()})

    @classmethod
    def from_folder(cls, folder: Path) -> Self:
        """Read config.json. Raises WeightsError."""
        path = folder / "config.json"
        values = read_json(path)
        # transformers 5 keeps the rope in a group of its own
        rope = values.get("rope_parameters")
        if isinstance(rope, dict) and "rope_theta" in rope:
            values["rope_theta"] = rope["rope_theta"]
        config = cls.from_dict(values)
        for field in fields(config):
            value = getattr(config, field.name)
            if not _is_like(value, field.default):
                raise WeightsError(f"{path}: {field.name} is {value!r}; fetch the model again")
        return config


def _is_like(value: object, default: object) -> bool:
    """Whether a value may stand for a default: of its kind, and above 0 if a number."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if value is None:
        return default is None
    if isinstance(value, tuple):
        is_list = default is None or isinstance(default, tuple)
        return is_list and all(type(item) is int and item > 0 for item in value)
    if isinstance(default, int):
        return isinstance(value, int) and value > 0
    return isinstance(default, float) and isinstance(value, int | float) and value > 0


@dataclass(frozen=True)
class TransformerConfig(_Config):
    """The rectified-flow transformer (klein-4b by default)."""

    num_layers: int = 5
    num_single_layers: int = 20
    num_attention_heads: int = 24
    attention_head_dim: int = 128
    joint_attention_dim: int = 7680
    in_channels: int = 128
    mlp_ratio: float = 3.0
    axes_dims_rope: tuple[int, ...] = (32, 32, 32, 32)
    rope_theta: float = 2000.0
    timestep_guidance_channels: int = 256
    eps: float = 1e-6

    @property
    def hidden_dim(self) -> int:
        """Width of the residual stream."""
        return self.num_attention_heads * self.attention_head_dim


@dataclass(frozen=True)
class AutoencoderConfig(_Config):
    """The autoencoder: 32 channels at 1/8, patchified to 128 at 1/16."""

    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    decoder_block_out_channels: tuple[int, ...] | None = None
    layers_per_block: int = 2
    norm_num_groups: int = 32
    latent_channels: int = 32
    in_channels: int = 3
    batch_norm_eps: float = 1e-4
    mid_block_add_attention: bool = True


@dataclass(frozen=True)
class TextEncoderConfig(_Config):
    """A Qwen3 language model, read in the middle."""

    vocab_size: int = 151936
    hidden_size: int = 2560
    intermediate_size: int = 9728
    num_hidden_layers: int = 36
    num_attention_heads: int = 32
    num_key_value_heads: int = 8
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1e6
