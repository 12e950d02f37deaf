"""What native.py hands to the compiled code: structures of results.h, products.c, attention.c."""

import ctypes

_COUNT, _POINTER = ctypes.c_long, ctypes.c_void_p
_STRIDES = ("token", "head")


class Product(ctypes.Structure):
    """results.h's struct product."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "w", "value", "out", "scratch")),
        *((name, _POINTER) for name in ("w_scale", "x_scale", "value_scale")),
        *((name, _POINTER) for name in ("added", "gate", "norm", "turns")),
        *((name, _COUNT) for name in ("m", "n", "depth")),
        *((name, _COUNT) for name in ("out_stride", "added_stride", "gate_stride")),
        *((name, _COUNT) for name in ("head", "length", "then", "is_wide", "has_amx", "threads")),
        ("eps", ctypes.c_float),
    )


class Rows(ctypes.Structure):
    """products.c's struct rows."""

    _fields_ = (
        *((name, _POINTER) for name in ("x", "tiles", "scale", "codes", "wide")),
        *((name, _POINTER) for name in ("factor", "shift")),
        *((name, _COUNT) for name in ("stride", "m", "depth", "modulation_stride")),
        *((name, _COUNT) for name in ("length", "is_float", "has_amx", "threads")),
        ("eps", ctypes.c_float),
    )


class Attention(ctypes.Structure):
    """attention.c's struct attention."""

    _fields_ = (
        *((name, _POINTER) for name in ("q", "k", "v", "out", "tiles", "scratch")),
        *((name, _COUNT) for name in ("length", "heads", "columns")),
        *((f"{name}_{each}", _COUNT) for name in ("q", "k", "v", "out") for each in _STRIDES),
        *((name, _COUNT) for name in ("has_amx", "threads")),
        ("scale", ctypes.c_float),
    )
