"""The guarded way from a request to a signed file, written once.

    validate -> moderate -> signer ready -> resolve -> hash -> denoise
      -> moderate -> watermark -> receipt -> encode -> sign -> audit

`check` does all that needs no model, `prepare` the rest of what comes before denoising, `finish`
what comes after it. The command line, the Python pipeline and the server call these; between the
last two each runs the sampler in its own way (a loop, or the engine's queue).
"""

from kleinod.session.finish import finish, reproduce
from kleinod.session.prepare import (
    CheckedRequest,
    OutputOptions,
    PreparedRequest,
    Session,
    check,
    check_output,
    open_references,
    prepare,
    prepare_signing,
)
from kleinod.session.results import BlockedImage, GeneratedImage, Result

__all__ = [
    "BlockedImage",
    "CheckedRequest",
    "GeneratedImage",
    "OutputOptions",
    "PreparedRequest",
    "Result",
    "Session",
    "check",
    "check_output",
    "finish",
    "open_references",
    "prepare",
    "prepare_signing",
    "reproduce",
]
