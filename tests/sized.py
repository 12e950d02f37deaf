"""Transformer files of any size with random numbers, streamed to the disk; and what opening takes.

As a script: `python sized.py FILE` opens a file, runs one forward pass and prints its memory.
"""

import json
import struct
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from kleinod.config import TransformerConfig
from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.models.transformer import Transformer
from kleinod.weights import build

# 3 + 6 blocks of width 1536: 305 million numbers
MIDDLE = TransformerConfig(
    num_layers=2, num_single_layers=6, num_attention_heads=12, joint_attention_dim=768
)
_RANDOM = np.random.default_rng(0).integers(0, 256, 2**24, dtype=np.uint8)


def _shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        state = Transformer(config).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _is_quantised(name: str, shape: tuple[int, ...]) -> bool:
    return "blocks." in name and len(shape) == 2


def write_bfl_fp8(path: Path, config: TransformerConfig) -> int:
    """BFL's layout: FP8 block linears with two float32 scalars each, the rest bfloat16.

    Gives the number of bytes of all tensors.
    """
    entries: dict[str, tuple[str, tuple[int, ...], int]] = {}
    for name, shape in _shapes(config).items():
        count = int(np.prod(shape))
        if _is_quantised(name, shape):
            stem = name.removesuffix("weight")
            entries[name] = ("F8_E4M3", shape, count)
            entries[stem + "weight_scale"] = entries[stem + "input_scale"] = ("F32", (), 4)
        else:
            entries[name] = ("BF16", shape, 2 * count)
    header, end = {}, 0
    for name, (dtype, shape, size) in entries.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for dtype, _, size in entries.values():
            _write(file, dtype, size)
    return end


def _write(file, dtype: str, size: int) -> None:  # noqa: ANN001
    if dtype == "F32":
        file.write(struct.pack("<f", 1e-4))
        return
    # no code with the last bit set: all are finite; bfloat16 numbers near 1/64
    kind = np.array([0x12, 0x3C] if dtype == "BF16" else [0, 0], np.uint8)
    chunk = np.tile(kind, len(_RANDOM) // 2) if dtype == "BF16" else _RANDOM & 0xFE
    for start in range(0, size, len(chunk)):
        file.write(chunk[: size - start].data)


def write_gguf(path: Path, config: TransformerConfig, name: str) -> None:
    """Blocks of one type for the block linears, zeros for the rest."""
    writer = gguf.GGUFWriter(path, "flux")
    kind = gguf.GGMLQuantizationType[name]
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    for key, shape in _shapes(config).items():
        if _is_quantised(key, shape):
            raw = np.resize(_RANDOM, (shape[0], shape[1] // numbers * size))
            writer.add_tensor(key, raw, raw_dtype=kind)
        else:
            writer.add_tensor(key, np.zeros(shape, np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def memory() -> dict[str, int]:
    """This process's bytes: private (mapped files that nobody else maps, too) and written."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    peak = Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]
    return {
        "private": sizes["Private_Clean"] + sizes["Private_Dirty"],
        "written": sizes["Anonymous"],
        "resident": sizes["Rss"],
        "peak": int(peak) * 1024,
    }


@torch.inference_mode()
def _forward(module: Transformer) -> Tensor:
    config = module.config
    tokens = torch.randn(1, 16, config.in_channels).bfloat16()
    text = torch.randn(1, 8, config.joint_attention_dim).bfloat16()
    times = torch.tensor([0.5]).bfloat16()
    return module(tokens, times, text, image_position_ids(4, 4), text_position_ids(8))


def _measure(path: Path) -> dict[str, dict[str, int]]:
    # on a shared machine two threads wait for each other at each of thousands of small steps
    torch.set_num_threads(1)
    # what the libraries take at their first use is not the file's
    torch.nn.functional.linear(torch.ones(64, 64).bfloat16(), torch.ones(64, 64).bfloat16())
    seen = {"before": memory()}
    module = build.open_transformer(path).filled(torch.device("cpu"), torch.bfloat16)
    seen["loaded"] = memory()
    velocity = _forward(module)
    seen["used"] = memory()
    return seen | {"shape": list(velocity.shape)}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]))))
