"""The geometry of a component from its tensors alone, for files that come without a configuration.

What no tensor tells (rope, eps, norm groups) is taken as published. Names are those of our modules.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.errors import WeightsError
from kleinod.weights.key_maps import WeightParts

Shape = tuple[int, ...]


class MissingTensorError(WeightsError):
    """A tensor that the component has is not there: damaged, or something else."""


class Shapes:
    """Shapes of tensors by name; a missing one says that the file is something else."""

    def __init__(self, tensors: Mapping[str, WeightParts], path: Path, what: str) -> None:
        self._shapes = {name: joined_shape(parts) for name, parts in tensors.items()}
        self._path, self._what = path, what

    def of(self, name: str, dims: int) -> Shape:
        """The shape of a tensor of so many dimensions. Raises WeightsError."""
        shape = self._shapes.get(name)
        if shape is None:
            raise MissingTensorError(f"{self._path}: is not a {self._what}: it lacks {name}")
        if len(shape) != dims or 0 in shape:
            raise WeightsError(f"{self._path}: tensor {name} has shape {list(shape)}")
        return shape

    def count(self, prefix: str) -> int:
        """How many numbers follow a prefix."""
        found = (re.match(re.escape(prefix) + r"\.(\d+)\.", name) for name in self._shapes)
        return len({match[1] for match in found if match})

    def has(self, prefix: str) -> bool:
        """Whether any name starts so."""
        return any(name.startswith(prefix) for name in self._shapes)

    def whole(self, number: int, by: int, name: str) -> int:
        """number / by, which must be a whole number. Raises WeightsError."""
        if number % by:
            raise WeightsError(f"{self._path}: {name}: {number} is not a multiple of {by}")
        return number // by


def joined_shape(parts: WeightParts) -> Shape:
    """Shape of parts joined along the rows."""
    first = tuple(parts[0].shape)
    if len(parts) == 1 or not first:
        return first
    return (sum(part.shape[0] for part in parts), *first[1:])


# latent channels of the autoencoders that lie about, and whose they are
_AUTOENCODERS = {4: "Stable Diffusion's", 16: "FLUX.1's or Stable Diffusion 3's"}


def has_encoder(tensors: Mapping[str, WeightParts]) -> bool:
    """Whether an autoencoder's tensors (diffusers' names) are more than a decoder's."""
    return any(name.startswith(("encoder.", "quant_conv.")) for name in tensors)


def check_autoencoder(tensors: Mapping[str, WeightParts], path: Path) -> None:
    """Name the autoencoder of another family, or a decoder without statistics.

    Raises WeightsError.
    """
    parts = tensors.get("decoder.conv_in.weight")
    shape = () if parts is None else joined_shape(parts)
    if len(shape) != 4 or "bn.running_mean" in tensors:
        return
    channels = shape[1]
    if channels == 32 and not has_encoder(tensors):
        raise WeightsError(
            f"{path}: is a decoder without the latents' statistics, bn.running_mean; "
            "take full_encoder_small_decoder.safetensors"
        )
    family = _AUTOENCODERS.get(channels, "of another family")
    raise WeightsError(
        f"{path}: is not a FLUX.2 autoencoder but {family}, with {channels} latent channels "
        "and no bn.running_mean; take FLUX.2's, with 32"
    )


def transformer(tensors: Mapping[str, WeightParts], path: Path) -> TransformerConfig:
    """Geometry of a transformer under BFL's names. Raises WeightsError."""
    shapes = Shapes(tensors, path, "klein transformer")
    if shapes.has("guidance_in."):
        raise WeightsError(f"{path}: has guidance_in, so it is FLUX.2-dev, not klein; not read")
    if shapes.has("vector_in."):
        raise WeightsError(f"{path}: has vector_in, so it is FLUX.1, not klein; not read")
    hidden, channels = shapes.of("img_in.weight", 2)
    head_dim = shapes.of("double_blocks.0.img_attn.norm.query_norm.scale", 1)[0]
    mlp = shapes.of("double_blocks.0.img_mlp.2.weight", 2)[1]
    axis = shapes.whole(head_dim, 8, "head dim of four even rope axes") * 2
    return TransformerConfig(
        num_layers=shapes.count("double_blocks"),
        num_single_layers=shapes.count("single_blocks"),
        num_attention_heads=shapes.whole(hidden, head_dim, "width in heads"),
        attention_head_dim=head_dim,
        joint_attention_dim=shapes.of("txt_in.weight", 2)[1],
        in_channels=channels,
        mlp_ratio=mlp / hidden,
        axes_dims_rope=(axis,) * 4,
        timestep_guidance_channels=shapes.of("time_in.in_layer.weight", 2)[1],
    ).checked(path)


def text_encoder(tensors: Mapping[str, WeightParts], path: Path) -> TextEncoderConfig:
    """Geometry of a Qwen3 text encoder. Raises WeightsError."""
    shapes = Shapes(tensors, path, "Qwen3 text encoder")
    vocabulary, hidden = shapes.of("model.embed_tokens.weight", 2)
    attention = "model.layers.0.self_attn."
    head_dim = shapes.of(attention + "q_norm.weight", 1)[0]
    query_rows = shapes.of(attention + "q_proj.weight", 2)[0]
    key_rows = shapes.of(attention + "k_proj.weight", 2)[0]
    return TextEncoderConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=shapes.of("model.layers.0.mlp.gate_proj.weight", 2)[0],
        num_hidden_layers=shapes.count("model.layers"),
        num_attention_heads=shapes.whole(query_rows, head_dim, "q_proj in heads"),
        num_key_value_heads=shapes.whole(key_rows, head_dim, "k_proj in heads"),
        head_dim=head_dim,
    ).checked(path)


def autoencoder(tensors: Mapping[str, WeightParts], path: Path) -> AutoencoderConfig:
    """Geometry of an autoencoder, or of its decoder alone, under diffusers' names.

    Raises WeightsError.
    """
    shapes = Shapes(tensors, path, "FLUX.2 autoencoder")
    latent = shapes.of("post_quant_conv.weight", 4)[0]
    decoder = _widths(shapes, "decoder.up_blocks")[::-1]
    is_whole = has_encoder(tensors)
    encoder = _widths(shapes, "encoder.down_blocks") if is_whole else decoder
    if len(encoder) < 2 or len(encoder) != len(decoder):
        raise WeightsError(f"{path}: is not a FLUX.2 autoencoder, it has {len(encoder)} levels")
    config = AutoencoderConfig(
        block_out_channels=encoder,
        decoder_block_out_channels=None if decoder == encoder else decoder,
        # a decoder has one more in each level
        layers_per_block=shapes.count("decoder.up_blocks.0.resnets") - 1,
        latent_channels=latent,
        in_channels=shapes.of("decoder.conv_out.weight", 4)[0],
        mid_block_add_attention=shapes.has("decoder.mid_block.attentions."),
        has_encoder=is_whole,
    )
    groups = config.norm_num_groups
    for width in (*encoder, *decoder):
        if width % groups:
            raise WeightsError(
                f"{path}: {width} channels are not a multiple of {groups}, the published number of "
                "norm groups; give the autoencoder's folder, whose config.json states its own"
            )
    return config.checked(path)


def _widths(shapes: Shapes, blocks: str) -> tuple[int, ...]:
    """The channels of each level."""
    return tuple(
        shapes.of(f"{blocks}.{level}.resnets.0.conv1.weight", 4)[0]
        for level in range(shapes.count(blocks))
    )
