"""BFL's layout of the tiny models, written out by hand from the published key lists.

Independent of the key table in the package, so that an error there cannot hide.
"""

import torch
from torch import Tensor


def transformer_as_bfl(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' state of `tiny.transformer` as one BFL file holds it."""
    shift_last = state["norm_out.linear.weight"].chunk(2)
    time = "time_guidance_embed.timestep_embedder.linear_"
    result = {
        "img_in.weight": state["x_embedder.weight"],
        "txt_in.weight": state["context_embedder.weight"],
        "time_in.in_layer.weight": state[time + "1.weight"],
        "time_in.out_layer.weight": state[time + "2.weight"],
        "single_stream_modulation.lin.weight": state["single_stream_modulation.linear.weight"],
        "final_layer.linear.weight": state["proj_out.weight"],
        "final_layer.adaLN_modulation.1.weight": torch.cat((shift_last[1], shift_last[0])),
    }
    for stream in ("img", "txt"):
        name = f"double_stream_modulation_{stream}."
        result[name + "lin.weight"] = state[name + "linear.weight"]
    for n in range(2):
        result |= _double(state, n)
    for n in range(3):
        ours, theirs = f"single_blocks.{n}.", f"single_transformer_blocks.{n}.attn."
        result[ours + "linear1.weight"] = state[theirs + "to_qkv_mlp_proj.weight"]
        result[ours + "linear2.weight"] = state[theirs + "to_out.weight"]
        result[ours + "norm.query_norm.scale"] = state[theirs + "norm_q.weight"]
        result[ours + "norm.key_norm.scale"] = state[theirs + "norm_k.weight"]
    return result


def _double(state: dict[str, Tensor], n: int) -> dict[str, Tensor]:
    ours, theirs = f"double_blocks.{n}.", f"transformer_blocks.{n}."
    result = {}
    for stream, qkv, out, norms, mlp in (
        ("img", ("to_q", "to_k", "to_v"), "to_out.0", "norm_", "ff"),
        (
            "txt",
            ("add_q_proj", "add_k_proj", "add_v_proj"),
            "to_add_out",
            "norm_added_",
            "ff_context",
        ),
    ):
        thirds = [state[f"{theirs}attn.{name}.weight"] for name in qkv]
        attention = f"{ours}{stream}_attn."
        result[attention + "qkv.weight"] = torch.cat(thirds)
        result[attention + "proj.weight"] = state[f"{theirs}attn.{out}.weight"]
        result[attention + "norm.query_norm.scale"] = state[f"{theirs}attn.{norms}q.weight"]
        result[attention + "norm.key_norm.scale"] = state[f"{theirs}attn.{norms}k.weight"]
        result[f"{ours}{stream}_mlp.0.weight"] = state[f"{theirs}{mlp}.linear_in.weight"]
        result[f"{ours}{stream}_mlp.2.weight"] = state[f"{theirs}{mlp}.linear_out.weight"]
    return result


def autoencoder_as_bfl(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """diffusers' state of `tiny.autoencoder` under the ldm names."""
    result = {}
    for name, tensor in state.items():
        side, _, rest = name.partition(".")
        if side in ("quant_conv", "post_quant_conv"):
            result[("encoder." if side == "quant_conv" else "decoder.") + name] = tensor
        elif side == "bn":
            result[name] = tensor
        else:
            ours, is_convolution = _ldm_name(rest)
            expand = is_convolution and tensor.dim() == 2
            result[f"{side}.{ours}"] = tensor[..., None, None] if expand else tensor
    return result


def _ldm_name(name: str) -> tuple[str, bool]:
    words = name.split(".")
    if words[0] == "mid_block":
        if words[1] == "resnets":
            return ".".join(["mid", f"block_{int(words[2]) + 1}", *words[3:]]), False
        inner = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out": "proj_out"}
        return f"mid.attn_1.{inner[words[3]]}.{words[-1]}", words[3] != "group_norm"
    if words[0] in ("down_blocks", "up_blocks"):
        is_up = words[0] == "up_blocks"
        level = 3 - int(words[1]) if is_up else int(words[1])
        start = f"{'up' if is_up else 'down'}.{level}."
        if words[2] == "resnets":
            rest = ".".join(words[4:]).replace("conv_shortcut", "nin_shortcut")
            return f"{start}block.{words[3]}.{rest}", False
        return f"{start}{'upsample' if is_up else 'downsample'}.conv.{words[-1]}", False
    return name.replace("conv_norm_out", "norm_out"), False
