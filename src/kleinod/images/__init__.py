"""Pictures in and out: reference images read and resized for the model, tensors to pictures.

`open_reference` is the one way in, for the command, the Python package, the server and the
trainer: from a file, bytes or an array to 8-bit sRGB, decoded once. torch is imported only where
a tensor is made, so that a bad reference is refused at once.
"""

from kleinod.images.decoding import BROKEN_FILE, Header, PictureError, open_file
from kleinod.images.formats import FORMATS as READABLE_FORMATS
from kleinod.images.formats import MAX_PIXELS, format_of, has_decoder
from kleinod.images.opening import (
    COMMAND_LIMITS,
    OpenedReference,
    ReferenceLimits,
    Source,
    check_header,
    load_image,
    open_reference,
    read_file,
)
from kleinod.images.resizing import (
    MAX_REFERENCE_PIXELS,
    MIN_REFERENCE_SIDE_PIXELS,
    prepare_reference,
    prepared_size,
)
from kleinod.images.tensors import to_images, to_tensor

__all__ = [
    "BROKEN_FILE",
    "COMMAND_LIMITS",
    "MAX_PIXELS",
    "MAX_REFERENCE_PIXELS",
    "MIN_REFERENCE_SIDE_PIXELS",
    "READABLE_FORMATS",
    "Header",
    "OpenedReference",
    "PictureError",
    "ReferenceLimits",
    "Source",
    "check_header",
    "format_of",
    "has_decoder",
    "load_image",
    "open_file",
    "open_reference",
    "prepare_reference",
    "prepared_size",
    "read_file",
    "to_images",
    "to_tensor",
]
