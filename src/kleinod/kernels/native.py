"""Matrix products and attention by compiled code: products.c and attention.c.

On AMX tiles, or by AVX512 where a processor multiplies bfloat16 numbers and int8 codes by it (AMD's
since Zen 4, Intel's with AMX). Products are of bfloat16 numbers, or of int8 with
scales.

y = x w^T. x is brought into tiles once and may then meet any rows of any weight. A product of
bfloat16 numbers is summed in float32 in the order of the inner dimension and rounded once, as
oneDNN's is, whose order differs: 3 to 7 of 10,000 numbers have another last bit. Unlike oneDNN's it
has the same bits for some rows or columns as for all, and on any number of threads.

The code is compiled with the package where a C compiler is. Without it, on another processor, and
where a small product is not right, `kind` is None and the callers use PyTorch.
"""

import ctypes
import logging
import os
import sys
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from kleinod.kernels.structures import Attention, Product, Rows

# bytes of a pair of tiles and of a tile's row, and rows of a pair
_PAIR, _LINE, ROWS = 2048, 64, 32
_COUNT, _POINTER = ctypes.c_long, ctypes.c_void_p
_log = logging.getLogger(__name__)
AMX, AVX512 = "amx", "avx512"
# the environment may name one of both, or say off
CHOICE, _OFF = "KLEINOD_KERNELS", "off"
# changes with the last bits of results, which must not be taken for each other
REVISION = 2
# columns of a head that its attention has room for
_MOST_COLUMNS = 128
# columns of a head that a product can turn
MOST_HEAD = 128
# results.h: what becomes of a product; a plain one is 0
_GATED_SUM, _SWIGLU, _TURNED = 1, 2, 3


def is_usable() -> bool:
    """Whether the code computes here."""
    return kind() is not None


@cache
def kind() -> str | None:
    """What it computes by, "amx" or "avx512"; None where PyTorch does.

    KLEINOD_KERNELS in the environment may say off, or name the one that is wanted.
    """
    chosen = os.environ.get(CHOICE, "").lower()
    if chosen not in ("", _OFF, AMX, AVX512):
        _log.warning("%s: %r is none of off, amx, avx512; it is left out", CHOICE, chosen)
        chosen = ""
    return next((kind for kind in _known() if chosen in (kind, "") and is_right(kind)), None)


def _known() -> list[str]:
    """The kinds that this processor and the code know, the fastest first."""
    has_avx512 = torch.cpu._is_avx512_bf16_supported() and torch.cpu._is_vnni_supported()
    has_amx = torch.cpu._is_amx_tile_supported()
    return [AMX] * has_amx + [AVX512] * has_avx512 if sys.platform == "linux" else []


@cache
def is_right(kind: str) -> bool:
    """Whether the code is there, the system lets it run, and small products are right."""
    if kind not in _known() or _library() is None:
        return False
    if kind == AMX and _code().kleinod_enable_amx() != 0:
        return False
    x = torch.arange(10 * ROWS, dtype=torch.float32).remainder(7).sub(3).repeat(2, 1).bfloat16()
    weight = x[:1, : 2 * ROWS].repeat(ROWS, 1).mul(torch.arange(ROWS)[:, None]).bfloat16()
    x, out = x[:, : 2 * ROWS].contiguous(), torch.empty(len(x), ROWS, dtype=x.dtype)
    expected, has_amx = (x.float() @ weight.float().T).bfloat16(), kind == AMX
    _multiply(tiled(x), weight, out, has_amx=has_amx)
    codes = Int8Weight(int8_tiles(weight.to(torch.int8)), torch.ones(ROWS))
    made = torch.empty(len(x), ROWS)
    # of codes from -3 to 3; the scale is 3 / 127, and 127 its largest
    _multiply(_quantized(x.float(), has_amx=has_amx), codes, made, has_amx=has_amx)
    near = (made - x.float() @ weight.float().T).abs() <= 0.5 / 42 * weight.float().abs().sum(1)
    return torch.equal(out, expected) and bool(near.all())


def _has_amx() -> bool:
    return kind() == AMX


def why_unused() -> str | None:
    """Why the fastest that the processor knows is not used; None if it is, or there is none."""
    known, chosen = _known(), os.environ.get(CHOICE)
    if not known or known[0] == kind():
        return None
    if _library() is None:
        return "kleinod was built without a C compiler"
    return f"{CHOICE} is {chosen}" if chosen else f"the system refuses {known[0]}"


@cache
def _library() -> ctypes.CDLL | None:
    # setup.py: it is no Python module, so its name has no version of Python
    try:
        return ctypes.CDLL(str(Path(__file__).with_name("_native.so")))
    except OSError:  # there is none, or it is another platform's
        return None


@cache
def _code() -> ctypes.CDLL:
    """The library with its functions' signatures."""
    code = _library()
    assert code is not None
    code.kleinod_pack.argtypes = [_POINTER, _COUNT, _COUNT, _COUNT, _POINTER, _COUNT]
    code.kleinod_scratch_bytes.argtypes = [_COUNT, _COUNT, ctypes.c_int]
    code.kleinod_scratch_bytes.restype = _COUNT
    code.kleinod_attention_bytes.argtypes = [_COUNT, _COUNT, _COUNT]
    for name in ("kleinod_attention_bytes", "kleinod_attention_scratch_bytes"):
        getattr(code, name).restype = _COUNT
    for name in (
        "kleinod_pack",
        "kleinod_quantize_pack",
        "kleinod_bfloat16",
        "kleinod_int8",
        "kleinod_attention",
    ):
        getattr(code, name).restype = None
    return code


@dataclass(frozen=True)
class Tiles:
    """Rows (num_rows, columns) as the products read them; scale (num_rows,) where quantised."""

    memory: Tensor
    num_rows: int
    columns: int
    dtype: torch.dtype
    scale: Tensor | None = None

    @property
    def depth(self) -> int:
        """Tiles of the inner dimension."""
        return self.columns * (1 if self.scale is not None else 2) // _LINE


def takes(rows: int, columns: int, itemsize: int) -> bool:
    """Whether weights (rows, columns) of so many bytes each fill whole tiles."""
    return rows % ROWS == 0 and columns * itemsize % _LINE == 0 and rows > 0 < columns


def whole_panels(start: int, stop: int) -> tuple[int, int]:
    """The least range of whole panels of 32 columns that holds columns from start to stop."""
    return start // ROWS * ROWS, -(-stop // ROWS) * ROWS


def tiled(x: Tensor) -> Tiles:
    """Rows of x (m, k), bfloat16; k a multiple of 32."""
    assert x.dtype == torch.bfloat16
    x, (num_rows, columns) = _with_plain_rows(x), x.shape
    depth, threads = columns * 2 // _LINE, torch.get_num_threads()
    memory = _aligned(-(-num_rows // ROWS) * depth * _PAIR)
    _code().kleinod_pack(x.data_ptr(), x.stride(0) * 2, num_rows, depth, memory.data_ptr(), threads)
    return Tiles(memory, num_rows, columns, x.dtype)


def quantized(x: Tensor) -> Tiles:
    """Rows of x (m, k), bfloat16 or float32, in int8 with a scale each; k a multiple of 64.

    scale = largest magnitude / 127, and of zeros 1; codes = round(x / scale), half to even.
    """
    assert x.dtype in (torch.bfloat16, torch.float32)
    return _quantized(x)


def modulated(x: Tensor, factor: Tensor, shift: Tensor, *, length: int, eps: float) -> Tiles:
    """`quantized` rows of LayerNorm(x) * factor + shift.

    x (m, k), factor and shift (b or 1, 1, k) of m / length pictures; all bfloat16.
    """
    assert x.dtype == factor.dtype == shift.dtype == torch.bfloat16
    assert factor.shape == shift.shape
    factor, shift = factor.contiguous(), shift.contiguous()
    stride = shift.stride(0) if len(shift) > 1 else 0
    wide = torch.empty(torch.get_num_threads() * x.shape[1])
    return _quantized(
        x, factor=factor, shift=shift, modulation_stride=stride, length=length, eps=eps, wide=wide
    )


def _quantized(x: Tensor, **more: Tensor | float) -> Tiles:
    """`more` are fields of Rows; those that are not given are null."""
    x, (num_rows, columns) = _with_plain_rows(x), x.shape
    depth, threads = columns // _LINE, torch.get_num_threads()
    memory = _aligned(-(-num_rows // ROWS) * depth * _PAIR)
    scale, codes = torch.empty(num_rows), _aligned(threads * 16 * columns)
    given = {"x": x, "tiles": memory, "scale": scale, "codes": codes} | more
    sizes = {"stride": x.stride(0) * x.itemsize, "m": num_rows, "depth": depth}
    if "has_amx" not in given:
        given["has_amx"] = _has_amx()
    how = {"is_float": x.dtype == torch.float32, "threads": threads}
    arguments = Rows(**_plain(given), **sizes, **how)
    _code().kleinod_quantize_pack(ctypes.byref(arguments))
    return Tiles(memory, num_rows, columns, x.dtype, scale)


def _plain(fields: dict[str, Tensor | float]) -> dict[str, float]:
    """Tensors as the addresses of their memory."""
    return {k: v.data_ptr() if isinstance(v, Tensor) else v for k, v in fields.items()}


@dataclass(frozen=True)
class Int8Weight:
    """Codes from `int8_tiles` and the scales (n,), float32, of an int8 weight (n, k)."""

    codes: Tensor
    scale: Tensor

    def __len__(self) -> int:
        return len(self.scale)

    def __getitem__(self, rows: slice) -> "Int8Weight":
        """Some rows of the weight, from start to stop; multiples of 32."""
        start, stop = rows.start, rows.stop
        assert start % ROWS == stop % ROWS == 0
        return Int8Weight(self.codes[start // ROWS : stop // ROWS], self.scale[start:stop])


# of bfloat16 (n, k), or of int8; n is a multiple of 32
Weight = Tensor | Int8Weight


def int8_tiles(codes: Tensor) -> Tensor:
    """Codes (n, k), int8, as the products read them: (n / 32, k / 64, 32, 64)."""
    rows, columns = codes.shape
    return codes.view(rows // ROWS, ROWS, columns // _LINE, _LINE).transpose(1, 2).contiguous()


def product(x: Tiles, weight: Weight, out: Tensor | None = None) -> Tensor:
    """y (m, n) in x's dtype: x's m rows times the weight's."""
    out = torch.empty(x.num_rows, len(weight), dtype=x.dtype) if out is None else out
    _multiply(x, weight, out)
    return out


def gated_sum(x: Tiles, weight: Weight, added: Tensor, gate: Tensor | None) -> Tensor:
    """added + gate * y, or without a gate added + y.

    added (b, l, n) of b * l = m rows and gate (b or 1, 1, n) are bfloat16.
    """
    out = torch.empty(added.shape, dtype=added.dtype)
    rows, length = added.reshape(x.num_rows, -1), added.shape[1]
    rows = _with_plain_rows(rows)
    more: dict[str, Tensor | int] = {"added": rows, "added_stride": rows.stride(0)}
    if gate is not None:
        gate = gate if gate.stride(-1) == 1 else gate.contiguous()
        more |= {"gate": gate, "gate_stride": gate.stride(0) if len(gate) > 1 else 0}
    _multiply(x, weight, out.view(x.num_rows, -1), then=_GATED_SUM, length=length, **more)
    return out


def swiglu(x: Tiles, gate: Weight, value: Weight, out: Tensor) -> None:
    """silu(y) * z to out (m, n), bfloat16; y and z are x's rows times the gate's and the value's.

    SiLU is 6e-7 off, for numbers within 10, before it is rounded.
    """
    assert len(value) == len(gate)
    w, scale = _operands(x, value)
    _multiply(x, gate, out, then=_SWIGLU, value=w, value_scale=scale)


def turned(x: Tiles, weight: Weight, norm: Tensor, *, turns: Tensor, eps: float) -> Tensor:
    """Heads (m, n) of y, each normalised by its root mean square, scaled and turned.

    norm (d,) is the scale, bfloat16; turns (l, d / 2) complex64, for m / l pictures; n is a
    multiple of d, and d of 32, at most MOST_HEAD.
    """
    assert norm.dtype == torch.bfloat16 and turns.dtype == torch.complex64
    assert norm.is_contiguous() and turns.is_contiguous() and turns.shape[1] * 2 == len(norm)
    out = torch.empty(x.num_rows, len(weight), dtype=x.dtype)
    sizes = {"head": len(norm), "length": len(turns)}
    _multiply(x, weight, out, then=_TURNED, norm=norm, turns=turns, eps=eps, **sizes)
    return out


def _operands(x: Tiles, weight: Weight) -> tuple[Tensor, Tensor | int]:
    """A weight's numbers and their scale, 0 if it has none."""
    if isinstance(weight, Tensor):
        assert x.scale is None and weight.dtype == torch.bfloat16 and weight.is_contiguous()
        assert weight.shape[1] == x.columns
        return weight, 0
    assert x.scale is not None and weight.scale.dtype == torch.float32
    assert weight.codes.is_contiguous() and weight.scale.is_contiguous()
    assert weight.codes.numel() == len(weight) * x.columns
    return weight.codes, weight.scale


def _multiply(x: Tiles, weight: Weight, out: Tensor, **more: Tensor | float) -> None:
    """`more` are fields of Product; those that are not given are null."""
    assert out.dtype == x.dtype and out.stride(1) == 1
    assert out.shape == (x.num_rows, len(weight))
    code, threads, is_int8 = _code(), torch.get_num_threads(), x.scale is not None
    scratch = _scratch(threads * code.kleinod_scratch_bytes(x.num_rows, x.depth, is_int8))
    w, scale = _operands(x, weight)
    given = {"x": x.memory, "out": out, "scratch": scratch, "w": w, "w_scale": scale} | more
    if x.scale is not None:
        given["x_scale"] = x.scale
    if "has_amx" not in given:
        given["has_amx"] = _has_amx()
    sizes = {"m": x.num_rows, "n": out.shape[1], "depth": x.depth, "out_stride": out.stride(0)}
    is_wide = out.dtype == torch.float32
    arguments = Product(**_plain(given), **sizes, is_wide=is_wide, threads=threads)
    (code.kleinod_int8 if is_int8 else code.kleinod_bfloat16)(ctypes.byref(arguments))


def takes_heads(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `attention` computes these (b, l, n, d): full, of one length, bfloat16."""
    columns = q.shape[-1]
    return (
        q.shape == k.shape == v.shape
        and all(x.dtype == torch.bfloat16 and x.stride(-1) == 1 for x in (q, k, v))
        and 0 < columns <= _MOST_COLUMNS
        and columns % ROWS == 0
    )


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(d)) v of (b, l, n, d) that `takes_heads` allows; (b, l, n, d).

    Scores and sums are float32, the weights of the values rounded to bfloat16, as in PyTorch.
    """
    length, heads, columns = q.shape[1:]
    out = torch.empty(q.shape, dtype=q.dtype)
    code, threads = _code(), torch.get_num_threads()
    tiles = _aligned(code.kleinod_attention_bytes(length, heads, columns))
    scratch = _scratch(threads * code.kleinod_attention_scratch_bytes())
    for rows in zip(q, k, v, out, strict=True):
        arguments = Attention(
            *(x.data_ptr() for x in (*rows, tiles, scratch)),
            *(length, heads, columns),
            *(stride for x in rows for stride in x.stride()[:2]),
            *(_has_amx(), threads, columns**-0.5),
        )
        code.kleinod_attention(ctypes.byref(arguments))
    return out


def _with_plain_rows(x: Tensor) -> Tensor:
    return x if x.stride(1) == 1 else x.contiguous()


class _Kept(threading.local):
    """The scratch of one thread's products: fresh memory for many cores would cost page faults."""

    memory: Tensor | None = None


_kept = _Kept()


def _scratch(size: int) -> Tensor:
    if _kept.memory is None or len(_kept.memory) < size:
        _kept.memory = _aligned(size)
    return _kept.memory


def _aligned(size: int) -> Tensor:
    """Bytes that start on a line of the cache, as PyTorch's memory on the CPU does."""
    return torch.empty(size, dtype=torch.uint8)
