"""Values of `load` in the spellings that people use: number formats and offload policies.

`bf16` is bfloat16; the offload words of version 0.1 are understood for one more release. No torch
in here, so that the command line checks them first.
"""

import logging

from kleinod.display import quoted
from kleinod.errors import InputError

_log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16", "float16")
_DTYPE_SPELLINGS = {
    **dict.fromkeys(("fp32", "f32", "float"), "float32"),
    **dict.fromkeys(("bf16", "bfloat"), "bfloat16"),
    **dict.fromkeys(("fp16", "f16", "half"), "float16"),
}
POLICIES = ("auto", "none", "model", "block")
_OLD_POLICIES = {"all": "none", "sequential": "model", "stream": "block"}


def check_dtype(name: str) -> str:
    """One of DTYPES: the name itself, `bf16`, `fp16`, `torch.bfloat16`, … Raises InputError."""
    plain = name.lower().removeprefix("torch.") if isinstance(name, str) else ""
    dtype = _DTYPE_SPELLINGS.get(plain, plain)
    if dtype not in DTYPES:
        raise InputError(f"dtype: {quoted(name)} is unknown; give {', '.join(DTYPES)}")
    return dtype


def check_offload(word: str) -> str:
    """One of POLICIES; a word of version 0.1 is logged with its new name. Raises InputError."""
    policy = _OLD_POLICIES.get(word) if isinstance(word, str) else None
    if policy is not None:
        _log.warning(
            "offload: '%s' is deprecated, and the next release does not accept it; give '%s'",
            *(word, policy),
        )
        return policy
    if not isinstance(word, str) or word not in POLICIES:
        raise InputError(f"offload: {quoted(word)} is unknown; give {', '.join(POLICIES)}")
    return word
