"""How many operations a second this machine can do, in products of a model's own shapes.

The best of several passes: a floor is what the machine can do, not what it does on average.
Several ways of a product are tried: PyTorch's, our own, and of int8 numbers column chunks with the
dequantisation and Int8Linear's.
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.bench.kleinod_runner import synchronise
from kleinod.compute.attention import attention, inexact
from kleinod.kernels import native
from kleinod.quantization.int8 import PACKED_AT_ONCE
from kleinod.quantization.int8_packing import PackedRows, as_read, is_usable

_SECONDS, _PASSES = 0.25, 3
# columns of one int8 product: the result is made floating point while it is in the cache
_CHUNKS = (512, 1024, 2048)


def measured_rates(
    *, device: str, dtype: str, formats: list[str], shapes: dict[str, int]
) -> dict[str, float]:
    """Operations a second by format, and of attention; shapes as KleinodEngine.work gives them."""
    place, number = torch.device(device), getattr(torch, dtype)
    tokens, width = shapes["tokens"], shapes["width"]
    columns = 3 * width + 2 * shapes["mlp"]
    x = torch.randn(tokens, width, device=place, dtype=number)
    weight = torch.randn(columns, width, device=place, dtype=number)
    operations = 2.0 * tokens * width * columns
    with torch.inference_mode():
        rates = {
            name: max(operations / _best(way, place) for way in _ways(name, x, weight))
            for name in formats
        }
        rates["attention"] = _attention_rate(x, tokens, shapes["heads"])
    return rates


def _ways(name: str, x: Tensor, weight: Tensor) -> list[Callable[[], object]]:
    """Ways of multiplying x by weight in a format."""
    if name == "int8":
        own = [_packed_product(x, weight)] if is_usable() and x.device.type == "cpu" else []
        if _fits_tiles(x, weight, 1):
            own.append(_int8_tiles_product(x, weight))
        return [*(_int8_product(x, weight, chunk) for chunk in _CHUNKS), *own]
    if name == "float8":
        return [_float8_product(x, weight)]
    ways: list[Callable[[], object]] = [lambda: F.linear(x, weight)]
    if x.dtype == torch.bfloat16 and _fits_tiles(x, weight, 2):
        tiles = native.tiled(x)
        ways.append(lambda: native.product(tiles, weight))
    return ways


def _fits_tiles(x: Tensor, weight: Tensor, itemsize: int) -> bool:
    return (
        x.device.type == "cpu"
        and native.is_usable()
        and native.takes(len(weight), weight.shape[1], itemsize)
    )


def _int8_tiles_product(x: Tensor, weight: Tensor) -> Callable[[], object]:
    codes = native.int8_tiles(torch.randint(-127, 128, weight.shape, dtype=torch.int8))
    tokens, made = native.quantized(x), native.Int8Weight(codes, torch.ones(len(weight)))
    return lambda: native.product(tokens, made)


def _int8_product(x: Tensor, weight: Tensor, chunk: int) -> Callable[[], object]:
    codes = torch.randint(-127, 128, x.shape, dtype=torch.int8, device=x.device)
    columns = torch.randint(-127, 128, weight.shape, dtype=torch.int8, device=x.device)
    out = x.new_empty(len(x), len(columns))
    row_scales = torch.rand(len(x), 1, device=x.device)

    def product() -> object:
        for start in range(0, len(columns), chunk):
            part = torch._int_mm(codes, columns[start : start + chunk].T)
            out[:, start : start + chunk] = part.float().mul_(row_scales)
        return out

    return product


def _packed_product(x: Tensor, weight: Tensor) -> Callable[[], object]:
    """As Int8Linear multiplies, without what makes its codes."""
    codes = torch.randint(-127, 128, weight.shape, dtype=torch.int8)
    read = as_read(torch.randint(-127, 128, x.shape, dtype=torch.int8))
    packs = [PackedRows(rows, torch.ones(len(rows))) for rows in torch.split(codes, PACKED_AT_ONCE)]
    return lambda: [pack.product(read, x.dtype) for pack in packs]


def _float8_product(x: Tensor, weight: Tensor) -> Callable[[], object]:
    one = torch.ones((), device=x.device)
    codes, columns = x.to(torch.float8_e4m3fn), weight.to(torch.float8_e4m3fn).T
    return lambda: torch._scaled_mm(codes, columns, one, one, out_dtype=torch.bfloat16)


def _attention_rate(x: Tensor, tokens: int, heads: int) -> float:
    """Of the faster of the two ways that kleinod has."""
    q, k, v = (torch.randn_like(x).view(1, tokens, heads, -1) for _ in range(3))
    ways = (lambda: attention(q, k, v), lambda: inexact(q, k, v))
    return 4.0 * tokens**2 * x.shape[1] / min(_best(way, x.device) for way in ways)


def _best(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of some calls, after one to warm up."""
    call()
    synchronise(device)
    best, passes, begin = float("inf"), 0, time.perf_counter()
    while passes < _PASSES or time.perf_counter() - begin < _SECONDS:
        start = time.perf_counter()
        call()
        synchronise(device)
        best, passes = min(best, time.perf_counter() - start), passes + 1
    return best
