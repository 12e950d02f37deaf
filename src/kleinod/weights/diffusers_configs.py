"""The config.json of a component in the diffusers layout, as diffusers 0.42 writes it. No torch."""

from kleinod.config import AutoencoderConfig, TransformerConfig


def transformer_config(config: TransformerConfig) -> dict[str, object]:
    """Of a Flux2Transformer2DModel."""
    return {
        "_class_name": "Flux2Transformer2DModel",
        "attention_head_dim": config.attention_head_dim,
        "axes_dims_rope": list(config.axes_dims_rope),
        "eps": config.eps,
        "guidance_embeds": False,
        "in_channels": config.in_channels,
        "joint_attention_dim": config.joint_attention_dim,
        "mlp_ratio": config.mlp_ratio,
        "num_attention_heads": config.num_attention_heads,
        "num_layers": config.num_layers,
        "num_single_layers": config.num_single_layers,
        "out_channels": None,
        "patch_size": 1,
        "rope_theta": int(config.rope_theta),
        "timestep_guidance_channels": config.timestep_guidance_channels,
    }


def autoencoder_config(config: AutoencoderConfig) -> dict[str, object]:
    """Of an AutoencoderKLFlux2."""
    levels = len(config.block_out_channels)
    values: dict[str, object] = {
        "_class_name": "AutoencoderKLFlux2",
        "act_fn": "silu",
        "batch_norm_eps": config.batch_norm_eps,
        "batch_norm_momentum": 0.1,
        "block_out_channels": list(config.block_out_channels),
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "in_channels": config.in_channels,
        "latent_channels": config.latent_channels,
        "layers_per_block": config.layers_per_block,
        "mid_block_add_attention": config.mid_block_add_attention,
        "norm_num_groups": config.norm_num_groups,
        "out_channels": config.in_channels,
        "patch_size": [2, 2],
        "sample_size": 1024,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "use_post_quant_conv": True,
        "use_quant_conv": True,
    }
    if config.decoder_block_out_channels is not None:
        values["decoder_block_out_channels"] = list(config.decoder_block_out_channels)
    return values
