"""Names and shapes of published files, at their real sizes; from the published key lists.

Independent of the package's own tables, so that an error there cannot hide.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from struct import pack

import torch
from header_files import Tensors, gguf_string
from torch import nn

Entries = dict[str, tuple[str, tuple[int, ...], int]]
BYTES = {"BF16": 2, "F16": 2, "F32": 4, "F8_E4M3": 1, "U8": 1, "I64": 8}


def entry(dtype: str, *shape: int) -> tuple[str, tuple[int, ...], int]:
    """dtype, shape and bytes."""
    return dtype, shape, math.prod(shape) * BYTES[dtype]


def klein(h: int = 3072, double: int = 5, single: int = 20, context: int = 7680) -> Entries:
    """A transformer in BFL's layout, bfloat16 (klein-facts A.2)."""
    shapes: dict[str, tuple[int, ...]] = {
        "img_in.weight": (h, 128),
        "txt_in.weight": (h, context),
        "time_in.in_layer.weight": (h, 256),
        "time_in.out_layer.weight": (h, h),
        "double_stream_modulation_img.lin.weight": (6 * h, h),
        "double_stream_modulation_txt.lin.weight": (6 * h, h),
        "single_stream_modulation.lin.weight": (3 * h, h),
        "final_layer.adaLN_modulation.1.weight": (2 * h, h),
        "final_layer.linear.weight": (128, h),
    }
    for n in range(double):
        for stream in ("img", "txt"):
            block = f"double_blocks.{n}.{stream}_"
            shapes |= {
                block + "attn.qkv.weight": (3 * h, h),
                block + "attn.proj.weight": (h, h),
                block + "attn.norm.query_norm.scale": (128,),
                block + "attn.norm.key_norm.scale": (128,),
                block + "mlp.0.weight": (6 * h, h),
                block + "mlp.2.weight": (h, 3 * h),
            }
    for n in range(single):
        block = f"single_blocks.{n}."
        shapes |= {
            block + "linear1.weight": (9 * h, h),
            block + "linear2.weight": (h, 4 * h),
            block + "norm.query_norm.scale": (128,),
            block + "norm.key_norm.scale": (128,),
        }
    return {name: entry("BF16", *shape) for name, shape in shapes.items()}


KLEIN_9B = {"h": 4096, "double": 8, "single": 24, "context": 12288}


def block_linears(entries: Tensors) -> list[str]:
    """The weights that the FP8 files quantise, without `.weight`."""
    return [
        name.removesuffix(".weight")
        for name in entries
        if "_blocks." in name and name.endswith(".weight")
    ]


def as_fp8(entries: Entries, *, num_without_scale: int = 0) -> Entries:
    """BFL's FP8 layout (klein-facts B.2); the first few may lack their scales."""
    result = dict(entries)
    for index, stem in enumerate(block_linears(entries)):
        result[stem + ".weight"] = entry("F8_E4M3", *entries[stem + ".weight"][1])
        if index >= num_without_scale:
            result[stem + ".weight_scale"] = entry("F32")
            result[stem + ".input_scale"] = entry("F32")
    return result


def as_nvfp4(entries: Entries) -> Entries:
    """Packed block linears (klein-facts B.4)."""
    result = dict(entries)
    for stem in block_linears(entries):
        rows, columns = entries[stem + ".weight"][1]
        result[stem + ".weight"] = entry("U8", rows, columns // 2)
        scales = -(-rows // 128) * 128, -(-columns // 64) * 4
        result[stem + ".weight_scale"] = entry("F8_E4M3", *scales)
        result[stem + ".weight_scale_2"] = entry("F32")
    return result


def of_module(module: nn.Module, dtype: str = "BF16") -> Entries:
    """The state of an oracle's module, which may be on the meta device."""
    return {
        name: entry("I64" if tensor.dtype == torch.int64 else dtype, *tensor.shape)
        for name, tensor in module.state_dict().items()
    }


def write_sparse_gguf(path: Path, shapes: Mapping[str, tuple[int, ...]], architecture: str) -> Path:
    """A GGUF file of Q8_0 matrices and F32 vectors (torch's order), whose data are a hole."""
    values = gguf_string("general.architecture") + pack("<I", 8) + gguf_string(architecture)
    entries, position = b"", 0
    for name, shape in shapes.items():
        is_packed = len(shape) > 1
        entries += gguf_string(name) + pack(f"<I{len(shape)}Q", len(shape), *shape[::-1])
        entries += pack("<IQ", 8 if is_packed else 0, position)
        size = math.prod(shape) // 32 * 34 if is_packed else math.prod(shape) * 4
        position += -(-size // 32) * 32
    head = b"GGUF" + pack("<IQQ", 3, len(shapes), 1) + values + entries
    head += bytes(-len(head) % 32)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + position)
    return path
