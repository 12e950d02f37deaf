"""Weights of a GGUF file, mapped. Knows nothing about models."""

import struct
from pathlib import Path
from typing import Any

import gguf
import torch
from gguf import GGUFValueType
from torch import Tensor

from kleinod.errors import WeightsError
from kleinod.quantization.gguf_blocks import FORMATS as PLAIN_FORMATS
from kleinod.quantization.gguf_codebooks import CODEBOOK_FORMATS
from kleinod.quantization.gguf_weight import GGUFWeight
from kleinod.quantization.stored import Weight

_PLAIN = ("F32", "F16", "F64")
FORMATS = PLAIN_FORMATS | CODEBOOK_FORMATS


def read_gguf(path: Path) -> dict[str, Weight]:
    """Every tensor of a GGUF file; blocks stay as they are. Raises WeightsError."""
    try:
        # copy on write: torch wants memory that it could write to, nothing is ever written
        reader = _Reader(path, "c")
    # whatever the package's parser meets in a broken file
    except (ValueError, LookupError, TypeError, OverflowError, OSError, struct.error) as error:
        raise WeightsError(f"{path}: not a whole GGUF file ({error}); fetch it again") from error
    if reader.byte_order != "I":
        raise WeightsError(f"{path}: its numbers are big-endian; take a little-endian file")
    return {tensor.name: _weight(tensor, path) for tensor in reader.tensors}


class _Reader(gguf.GGUFReader):
    """Steps over lists: a text encoder's 300,000 words would take 20 s and 500 MB, unread."""

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[Any], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, count = struct.unpack_from("<IQ", self.data.data, orig_offs)
        item, offset = GGUFValueType(kind), orig_offs + 12
        if item == GGUFValueType.STRING:
            for _ in range(count):
                offset += 8 + struct.unpack_from("<Q", self.data.data, offset)[0]
        else:
            offset += count * self.gguf_scalar_to_np[item]().itemsize
        return offset - orig_offs, [], [], [GGUFValueType.ARRAY, item]


def _weight(tensor: gguf.ReaderTensor, path: Path) -> Weight:
    name = tensor.tensor_type.name
    if name in _PLAIN:
        return torch.from_numpy(tensor.data)
    raw: Tensor = torch.from_numpy(tensor.data)
    if name == "BF16":
        shape = [int(side) for side in reversed(tensor.shape)]
        return raw.reshape(-1).view(torch.bfloat16).view(shape)
    if name not in FORMATS or raw.dim() != 2:
        raise WeightsError(
            f"{path}: tensor {tensor.name} is {name} of {len(tensor.shape)} dimensions; read are "
            f"{', '.join((*_PLAIN, 'BF16'))} and matrices of {', '.join(FORMATS)}"
        )
    return GGUFWeight(raw, FORMATS[name])
