"""Int8 weights in the order in which oneDNN's matrix product reads them.

oneDNN packs half a billion numbers per second, a pass over memory ten times as many. So a matrix
is packed by oneDNN once per shape and its bytes are compared with our own packing: 64 x 64 blocks,
four numbers of a row together (oneDNN's BA16a64b4a), then minus each row's sum. Where they agree,
the next matrices of that shape are packed here, else by oneDNN.

AMX multiplies signed by signed codes. AVX512-VNNI has unsigned by signed only, and oneDNN computes
the other with its reference code, a thousand times slower; so there 128 is added to a token's codes
and named as their zero point, and oneDNN takes 128 times the weights' sums off again.
"""

import ctypes
import platform
import time
import weakref
from collections.abc import Callable
from functools import cache, partial

import torch
from torch import Tensor

_BLOCK = 64
_TRIES = 5


@cache
def is_usable() -> bool:
    """Whether this machine's int8 product exists, gives exact sums of the largest codes, and pays.

    Without VNNI instructions sums of two products saturate, which the largest codes show. What
    oneDNN has a kernel for is as fast as floats or faster; its reference code takes a thousand
    times as long, so that a busy hour cannot look like it.
    """
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    if not (is_x86 and hasattr(torch.ops.onednn, "qlinear_prepack")):
        return False
    codes = torch.full((4 * _BLOCK, 4 * _BLOCK), 127, dtype=torch.int8)
    codes[::2, ::3] = -127
    rows, wide, read = PackedRows(codes, torch.ones(len(codes))), codes.float(), as_read(codes)
    try:
        is_exact = torch.equal(rows.product(read, torch.float32), wide @ wide.T)
    except RuntimeError:
        return False
    limit = 100 * min(_seconds(lambda: wide @ wide.T) for _ in range(_TRIES))
    product = partial(rows.product, read, torch.float32)
    return is_exact and any(_seconds(product) < limit for _ in range(_TRIES))


def _seconds(compute: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    compute()
    return time.perf_counter() - start


@cache
def _zero_point() -> int:
    return 0 if torch.cpu._is_amx_tile_supported() else 128


def as_read(codes: Tensor) -> Tensor:
    """A token's codes, int8, as this machine's product takes them."""
    # adding 128 turns the sign's bit
    return codes.view(torch.uint8) ^ 0x80 if _zero_point() else codes


class PackedRows:
    """Codes (rows, columns), int8, with a scale per row, ready to be multiplied."""

    def __init__(self, codes: Tensor, scale: Tensor) -> None:
        self._packed, self._scale = packed(codes), scale.contiguous()
        self._zeros = _zeros(len(codes))

    def product(self, read: Tensor, dtype: torch.dtype) -> Tensor:
        """Codes (n, columns) from `as_read` times these rows, times their scales; (n, rows)."""
        product: Tensor = torch.ops.onednn.qlinear_pointwise(
            *(read, 1.0, _zero_point()), *(self._packed, self._scale, self._zeros), None,
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
