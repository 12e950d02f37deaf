"""The watermark in a picture's pixels: 48 bits in the luma, found without the original.

`mark` lays a periodic pattern of 128 x 128 pixels over the picture (pattern.py, marking.py); `read`
finds it after recompression, resizing, cropping and small changes of brightness (reading.py). The
payload is coded so that it survives many wrong signs (payload_code.py). The key is public: whoever
wants can lay a mark or drown one. It says that a picture is generated where nobody minds, and is no
proof; the signed manifest is.
"""

import numpy as np
from PIL import Image

from kleinod.errors import InputError
from kleinod.provenance import marking_v1, watermarking
from kleinod.provenance.payload_code import PAYLOAD_BITS
from kleinod.provenance.reading import Reading
from kleinod.provenance.reading import read as read_luma

__all__ = ["PAYLOAD_BITS", "VERSION", "Reading", "mark", "read"]

# what receipts name; one without a version means 1, whose strength on flat surfaces was 1.9 levels
VERSION = 2
_EMBED = {1: marking_v1.marked, 2: watermarking.embed}


def mark(image: Image.Image, payload: int, *, version: object = VERSION) -> Image.Image:
    """The RGB image with the 48-bit payload in it, embedded as `version` of this code did.

    All versions have one pattern and are read alike. Raises InputError for an unknown version.
    """
    if type(version) is not int or version not in _EMBED:
        known = ", ".join(map(str, _EMBED))
        raise InputError(
            f"watermark.version: {version!r} is unknown here; this kleinod has {known}; install "
            "the kleinod that wrote it"
        )
    return Image.fromarray(_EMBED[version](np.asarray(image.convert("RGB")), payload))


def read(image: Image.Image) -> Reading:
    """What is found in a picture of any size."""
    return read_luma(np.asarray(image.convert("L"), np.float32))
