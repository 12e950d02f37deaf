"""Geometry of the components, read from the configuration files of the diffusers layout.

No torch in here. Each default is the published klein value.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain
from pathlib import Path
from typing import Any, Self

from kleinod import fileio
from kleinod.display import quoted
from kleinod.errors import InputError, WeightsError

_MAX_BYTES = 64_000_000
# Least and greatest value of each number (for lists: of each item), well beyond any model that is
# published: a configuration may come from anyone, and sizes are multiplied before they are used.
RANGES: dict[str, tuple[float, float]] = {
    "num_layers": (1, 256),
    "num_single_layers": (1, 256),
    "num_attention_heads": (1, 512),
    "attention_head_dim": (2, 1024),
    "joint_attention_dim": (1, 262_144),
    "in_channels": (1, 4096),
    "mlp_ratio": (0.01, 64),
    "axes_dims_rope": (2, 1024),
    "rope_theta": (1, 1e9),
    "timestep_guidance_channels": (2, 65_536),
    "eps": (1e-12, 0.1),
    "block_out_channels": (1, 16_384),
    "decoder_block_out_channels": (1, 16_384),
    "layers_per_block": (1, 64),
    "norm_num_groups": (1, 4096),
    "latent_channels": (1, 1024),
    "batch_norm_eps": (1e-12, 0.1),
    "vocab_size": (1, 4_194_304),
    "hidden_size": (2, 65_536),
    "intermediate_size": (1, 524_288),
    "num_hidden_layers": (1, 256),
    "num_key_value_heads": (1, 512),
    "head_dim": (2, 1024),
    "rms_norm_eps": (1e-12, 0.1),
}
_MAX_ITEMS = 8


def read_json(path: Path) -> dict[str, Any]:
    """A configuration file in UTF-8, with or without a byte order mark. Raises WeightsError."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise WeightsError(f"{path}: is over {_MAX_BYTES} bytes; fetch the model again")
        values = fileio.read_json(path, "model")
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error}); fetch the model again") from error
    except WeightsError:
        raise
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
        return cls.from_dict(values).checked(path)

    def checked(self, path: Path) -> Self:
        """The same, if every value is of its kind, in its range and fits the others.

        Raises WeightsError, which names the file.
        """
        # what does not fit together is asked only of values that are in their ranges
        for problem in chain(self._problems_of_values(), self._problems()):
            raise WeightsError(f"{path}: {problem}; fetch the model again")
        return self

    def _problems_of_values(self) -> Iterator[str]:
        for field in fields(self):
            value = getattr(self, field.name)
            if not _is_like(value, field.default):
                yield f"{field.name} is {quoted(value)}"
            elif field.name in RANGES:
                low, high = RANGES[field.name]
                items = value if isinstance(value, tuple) else () if value is None else (value,)
                if not all(low <= item <= high for item in items):
                    yield f"{field.name} is {quoted(value)}, which is not from {low} to {high}"

    def _problems(self) -> Iterator[str]:
        """What does not fit together."""
        yield from ()


def _is_like(value: object, default: object) -> bool:
    """Whether a value may stand for a default: of its kind, and above 0 if a number."""
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if value is None:
        return default is None
    if isinstance(value, tuple):
        is_list = (default is None or isinstance(default, tuple)) and 0 < len(value) <= _MAX_ITEMS
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

    def _problems(self) -> Iterator[str]:
        axes = self.axes_dims_rope
        if sum(axes) != self.attention_head_dim or any(axis % 2 for axis in axes):
            yield (
                f"axes_dims_rope is {list(axes)}, not even numbers whose sum is "
                f"attention_head_dim, {self.attention_head_dim}"
            )


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
    has_encoder: bool = True

    def _problems(self) -> Iterator[str]:
        encoder, decoder = self.block_out_channels, self.decoder_block_out_channels
        if len(encoder) < 2 or (decoder is not None and len(decoder) != len(encoder)):
            yield f"block_out_channels is {list(encoder)}, and decoder_block_out_channels {decoder}"
        for width in (*encoder, *(decoder or ())):
            if width % self.norm_num_groups:
                yield (
                    f"{width} channels are not a multiple of {self.norm_num_groups} norm groups, "
                    "norm_num_groups of the folder's config.json"
                )


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

    def _problems(self) -> Iterator[str]:
        heads, kv_heads = self.num_attention_heads, self.num_key_value_heads
        if heads % kv_heads:
            yield f"num_attention_heads is {heads}, not a multiple of {kv_heads} key-value heads"
        if self.head_dim % 2:
            yield f"head_dim is {self.head_dim}, not even"
