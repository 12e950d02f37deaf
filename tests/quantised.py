"""Matrices in the published number formats, by the formats' own formulas in numpy.

Independent of the package: nothing here is imported from it. Each function takes a float32 matrix
and gives the tensors of one layer as a file holds them, and the matrix that they stand for.
Source: klein-facts B.2 – B.6.
"""

import json

import gguf
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Stored = tuple[dict[str, Tensor], Tensor]


def float8_values(exponent_bits: int, mantissa_bits: int) -> Floats:
    """The number that each of the 256 codes stands for: E4M3 without infinities, E5M2 with."""
    values = np.empty(256, dtype=np.float32)
    bias, steps = 2 ** (exponent_bits - 1) - 1, 2**mantissa_bits
    for code in range(256):
        sign = -1.0 if code >> 7 else 1.0
        exponent, mantissa = (code & 127) // steps, (code & 127) % steps
        is_top = exponent == 2**exponent_bits - 1
        if exponent == 0:
            value = mantissa / steps * 2.0 ** (1 - bias)
        elif mantissa_bits == 3 and is_top and mantissa == steps - 1:
            value = np.nan
        elif mantissa_bits == 2 and is_top:
            value = np.nan if mantissa else np.inf
        else:
            value = (1 + mantissa / steps) * 2.0 ** (exponent - bias)
        values[code] = sign * value
    return values


E4M3, E5M2 = float8_values(4, 3), float8_values(5, 2)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
KINDS = {torch.float8_e4m3fn: E4M3, torch.float8_e5m2: E5M2}


def nearest(values: Floats, table: Floats) -> NDArray[np.uint8]:
    """The code of the nearest finite number of a table."""
    codes = np.flatnonzero(np.isfinite(table))
    order = codes[np.argsort(table[codes], kind="stable")]
    ordered = table[order]
    right = np.clip(np.searchsorted(ordered, values), 1, len(ordered) - 1)
    is_left = values - ordered[right - 1] <= ordered[right] - values
    return order[right - is_left].astype(np.uint8)


def _codes(values: Floats, kind: torch.dtype) -> tuple[Tensor, Floats]:
    codes = nearest(values, KINDS[kind])
    return torch.from_numpy(codes).view(kind), KINDS[kind][codes]


def float8(weight: Tensor, kind: torch.dtype = torch.float8_e4m3fn) -> Stored:
    """BFL's and ComfyUI's: one scale for the matrix."""
    matrix = weight.numpy()
    scale = np.float32(np.abs(matrix).max() / KINDS[kind][np.isfinite(KINDS[kind])].max())
    codes, values = _codes(matrix / scale, kind)
    pieces = {
        "weight": codes,
        "weight_scale": torch.tensor(scale),
        "input_scale": torch.tensor(0.37),
    }
    return pieces, torch.from_numpy(values * scale)


def old_float8(weight: Tensor) -> Stored:
    """ComfyUI's older names."""
    pieces, dense = float8(weight)
    names = {"weight": "weight", "weight_scale": "scale_weight", "input_scale": "scale_input"}
    return {names[name]: piece for name, piece in pieces.items()}, dense


def row_float8(weight: Tensor) -> Stored:
    """A scale for each row."""
    scales = np.abs(weight.numpy()).max(axis=1, keepdims=True) / np.float32(448)
    codes, values = _codes(weight.numpy() / scales, torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale": torch.from_numpy(scales)}, torch.from_numpy(
        values * scales
    )


def plain_float8(weight: Tensor) -> Stored:
    """A cast without a scale."""
    codes, values = _codes(weight.numpy(), torch.float8_e4m3fn)
    return {"weight": codes}, torch.from_numpy(values)


def block_float8(weight: Tensor, scale_dtype: torch.dtype = torch.bfloat16) -> Stored:
    """Qwen's: one scale for each block of 128 x 128, by which the codes are multiplied."""
    matrix = weight.numpy()
    rows, columns = matrix.shape
    scales = np.zeros((-(-rows // 128), -(-columns // 128)), np.float32)
    for i in range(scales.shape[0]):
        for j in range(scales.shape[1]):
            block = matrix[i * 128 : i * 128 + 128, j * 128 : j * 128 + 128]
            scales[i, j] = np.abs(block).max() / 448
    stored = torch.from_numpy(scales).to(scale_dtype)
    scales = stored.float().numpy()
    wide = scales[np.arange(rows)[:, None] // 128, np.arange(columns) // 128]
    codes, values = _codes(matrix / wide, torch.float8_e4m3fn)
    return {"weight": codes, "weight_scale_inv": stored}, torch.from_numpy(values * wide)


def nvfp4(weight: Tensor, before: Tensor | None = None) -> Stored:
    """Two numbers to a byte, the even column in the high nibble; swizzled float8 scales of 16."""
    matrix = weight.numpy()
    if before is not None:
        matrix = matrix / before.numpy()
    rows, columns = (-(-side // 16) * 16 for side in matrix.shape)
    padded = np.zeros((rows, columns), np.float32)
    padded[: matrix.shape[0], : matrix.shape[1]] = matrix
    groups = padded.reshape(rows, columns // 16, 16)
    whole = np.float32(np.abs(padded).max() / (6 * 448))
    scales = nearest(np.abs(groups).max(axis=2) / 6 / whole, E4M3)
    steps = E4M3[scales] * whole
    numbers = nearest(groups / np.where(steps == 0, 1, steps)[..., None], E2M1)
    dense = (E2M1[numbers] * steps[..., None]).reshape(rows, columns)
    dense = dense[: matrix.shape[0], : matrix.shape[1]]
    nibbles = numbers.reshape(rows, columns // 2, 2)
    pieces = {
        "weight": torch.from_numpy(nibbles[..., 0] << 4 | nibbles[..., 1]),
        "weight_scale": torch.from_numpy(_swizzled(scales)).view(torch.float8_e4m3fn),
        "weight_scale_2": torch.tensor(whole),
    }
    if before is not None:
        pieces["pre_quant_scale"] = before
        dense = dense * before.numpy()
    return pieces, torch.from_numpy(dense.astype(np.float32))


def _swizzled(scales: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tiles of 128 x 4; within one, (r, c) lies at (r % 32) * 16 + (r % 128) // 32 * 4 + c % 4."""
    height, width = -(-scales.shape[0] // 128) * 128, -(-scales.shape[1] // 4) * 4
    flat = np.zeros(height * width, np.uint8)
    for (r, c), value in np.ndenumerate(scales):
        tile = r // 128 * (width // 4) + c // 4
        flat[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4] = value
    return flat.reshape(height, width)


def marked(stored: Stored, form: str, **facts: bool) -> Stored:
    """With ComfyUI's marker: the JSON's bytes."""
    text = json.dumps({"format": form} | facts).encode()
    return stored[0] | {"comfy_quant": torch.tensor(list(text), dtype=torch.uint8)}, stored[1]


def gguf_blocks(weight: Tensor, name: str) -> tuple[NDArray[np.uint8], Tensor]:
    """Raw bytes of a matrix and what they stand for, by the gguf package.

    It has no quantiser for the K formats: there the blocks are random, with scales that give
    numbers of the matrix's spread.
    """
    kind = gguf.GGMLQuantizationType[name]
    try:
        raw = gguf.quants.quantize(weight.numpy(), kind)
    except NotImplementedError:
        raw = _random_blocks(weight, kind)
    return raw, torch.from_numpy(gguf.quants.dequantize(raw, kind))


# where a block's float16 scale and minimum are
_PLACES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
_FIRST = ("IQ1_S", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS")
_PLACES |= dict.fromkeys(_FIRST, (0,))


def _random_blocks(weight: Tensor, kind: gguf.GGMLQuantizationType) -> NDArray[np.uint8]:
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    random = np.random.default_rng([weight.numel(), int(1000 * weight.abs().max())])
    count = weight.numel() // numbers
    blocks = random.integers(0, 256, (count, size), dtype=np.uint8)
    for attempt in (1.0, None):
        if attempt is None:
            wide = gguf.quants.dequantize(blocks, kind)
            attempt = float(weight.std()) / float(np.sqrt((wide**2).mean()))
        for place in _PLACES.get(kind.name, ()):
            scales = random.uniform(0.8, 1.2, (count, 1)) * attempt
            blocks[:, place : place + 2] = scales.astype(np.float16).view(np.uint8)
        if kind.name == "IQ1_M":
            # the scale's four nibbles are the highest of four numbers
            bits = (random.uniform(0.8, 1.2, count) * attempt).astype(np.float16).view(np.uint16)
            for i in range(4):
                high = (bits >> (4 * i) & 15).astype(np.uint8) << 4
                blocks[:, 49 + 2 * i] = blocks[:, 49 + 2 * i] & 15 | high
        if kind.name == "NVFP4":
            # unsigned E4M3, of 2^-5 to 2^-4
            blocks[:, :4] = random.integers(0x10, 0x18, (count, 4))
    return blocks.reshape(weight.shape[0], -1)
