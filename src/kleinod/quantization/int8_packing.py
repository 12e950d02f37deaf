"""Int8 weights in the order in which oneDNN's matrix product reads them.

oneDNN packs half a billion numbers per second, a pass over memory ten times as many. So a matrix
is packed by oneDNN once per shape and its bytes are compared with our own packing: 64 x 64 blocks,
four numbers of a row together (oneDNN's BA16a64b4a), then minus each row's sum. Where they agree,
as with AMX, the next matrices of that shape are packed here, else by oneDNN.
"""

import ctypes
import weakref
from functools import cache

import torch
from torch import Tensor

_BLOCK = 64


@cache
def is_exact() -> bool:
    """Whether this machine's int8 product exists and gives exact sums of the largest codes."""
    # without these instructions oneDNN's int8 products are slow, and may saturate
    if not (torch.cpu._is_vnni_supported() and hasattr(torch.ops.onednn, "qlinear_prepack")):
        return False
    codes = torch.full((_BLOCK, 4 * _BLOCK), 127, dtype=torch.int8)
    codes[::2, ::3] = -127
    try:
        product = PackedRows(codes, torch.ones(len(codes))).product(codes, torch.float32)
    except RuntimeError:
        return False
    return torch.equal(product, codes.float() @ codes.float().T)


class PackedRows:
    """Codes (rows, columns), int8, with a scale per row, ready to be multiplied."""

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self._packed, self._scale = packed(codes), scale.contiguous()
        self._zeros = _zeros(len(codes))

    def product(self, codes: Tensor, dtype: torch.dtype) -> Tensor:
        """Codes (n, columns) times these rows, times their scales; (n, rows)."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(codes, 1.0, 0), *(self._packed, self._scale, self._zeros), None,
            *(1.0, 0, dtype), "none", [], "",
        )  # fmt: skip
        return product


@cache
def _zeros(count: int) -> Tensor:
    with torch.inference_mode(mode=False):
        return torch.zeros(count, dtype=torch.int32)


# a matrix that oneDNN packed as we do, by shape; it lives as long as its layer
_alike: "weakref.WeakValueDictionary[tuple[int, int], Tensor]" = weakref.WeakValueDictionary()


def packed(codes: Tensor) -> Tensor:
    """An opaque tensor for oneDNN's product."""
    shape = (len(codes), codes.shape[1])
    example = _alike.get(shape)
    if example is not None:
        made = example.clone()
        _bytes(made).copy_(_packed_here(codes))
        return made
    made = torch.ops.onednn.qlinear_prepack(codes, None)
    if shape[0] % _BLOCK == shape[1] % _BLOCK == 0 and torch.equal(
        _bytes(made), _packed_here(codes)
    ):
        _alike[shape] = made
    return made


def _packed_here(codes: Tensor) -> Tensor:
    rows, columns = codes.shape
    words = codes.view(torch.int32).view(rows // _BLOCK, _BLOCK, columns // _BLOCK, _BLOCK // 4)
    blocks = words.permute(0, 2, 3, 1).reshape(-1)
    sums = codes.sum(1, dtype=torch.int32).neg_()
    return torch.cat((blocks, sums)).view(torch.uint8)


def _bytes(opaque: Tensor) -> Tensor:
    """The memory of an opaque tensor, to be read and written while that lives."""
    count = torch.ops.mkldnn._nbytes(opaque)
    memory = (ctypes.c_char * count).from_address(torch.ops.mkldnn.data_ptr(opaque))
    return torch.frombuffer(memory, dtype=torch.uint8)
