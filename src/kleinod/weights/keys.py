"""diffusers' transformer keys to the published (BFL) keys. Source: klein-facts A.3."""

import torch
from torch import Tensor

_PREFIXES = (
    ("time_guidance_embed.timestep_embedder.linear_1.", "time_in.in_layer."),
    ("time_guidance_embed.timestep_embedder.linear_2.", "time_in.out_layer."),
    ("x_embedder.", "img_in."),
    ("context_embedder.", "txt_in."),
    ("proj_out.", "final_layer.linear."),
    ("norm_out.linear.", "final_layer.adaLN_modulation.1."),
    ("single_transformer_blocks.", "single_blocks."),
    ("transformer_blocks.", "double_blocks."),
)
_PARTS = (
    ("_modulation_img.linear.", "_modulation_img.lin."),
    ("_modulation_txt.linear.", "_modulation_txt.lin."),
    ("single_stream_modulation.linear.", "single_stream_modulation.lin."),
    (".attn.to_qkv_mlp_proj.", ".linear1."),
    (".attn.to_out.0.", ".img_attn.proj."),
    (".attn.to_out.", ".linear2."),
    (".attn.to_add_out.", ".txt_attn.proj."),
    (".attn.norm_added_q.weight", ".txt_attn.norm.query_norm.scale"),
    (".attn.norm_added_k.weight", ".txt_attn.norm.key_norm.scale"),
    (".ff.linear_in.", ".img_mlp.0."),
    (".ff.linear_out.", ".img_mlp.2."),
    (".ff_context.linear_in.", ".txt_mlp.0."),
    (".ff_context.linear_out.", ".txt_mlp.2."),
)
_FUSED = (
    (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".img_attn.qkv."),
    (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj.", ".txt_attn.qkv."),
)


def _renamed(key: str) -> str:
    for old, new in _PREFIXES:
        if key.startswith(old):
            key = new + key[len(old) :]
            break
    for old, new in _PARTS:
        key = key.replace(old, new)
    norm = ".norm." if key.startswith("single_blocks.") else ".img_attn.norm."
    for side, name in (("q", "query_norm"), ("k", "key_norm")):
        key = key.replace(f".attn.norm_{side}.weight", f"{norm}{name}.scale")
    return key


def diffusers_to_bfl(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Rename, join q, k, v, and swap the final layer's (scale, shift) to (shift, scale)."""
    rest, result = dict(tensors), {}
    for q, k, v, fused in _FUSED:
        for key in [name for name in rest if q in name]:
            names = [key, key.replace(q, k), key.replace(q, v)]
            if all(name in rest for name in names):
                result[_renamed(key.replace(q, fused))] = torch.cat([rest.pop(n) for n in names])
    result |= {_renamed(key): tensor for key, tensor in rest.items()}
    key = "final_layer.adaLN_modulation.1.weight"
    if key in result:
        scale, shift = result[key].chunk(2)
        result[key] = torch.cat((shift, scale))
    return result
