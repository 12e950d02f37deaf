"""The watermark in a picture's pixels: 48 bits in the luma, found without the original.

`mark` lays a periodic pattern of 128 x 128 pixels over the picture (pattern.py, marking.py); `read`
finds it after recompression, resizing, cropping and small changes of brightness (reading.py). The
payload is coded so that it survives many wrong signs (payload_code.py). The key is public: whoever
wants can lay a mark or drown one. It says that a picture is generated where nobody minds, and is no
proof; the signed manifest is.
"""

import numpy as np
from PIL import Image

from kleinod.provenance.marking import embed
from kleinod.provenance.payload_code import PAYLOAD_BITS
from kleinod.provenance.reading import Reading
from kleinod.provenance.reading import read as read_luma

__all__ = ["PAYLOAD_BITS", "Reading", "mark", "read"]


def mark(image: Image.Image, payload: int) -> Image.Image:
    """The RGB picture with the 48-bit payload in it."""
    return Image.fromarray(embed(np.asarray(image.convert("RGB")), payload))


def read(image: Image.Image) -> Reading:
    """What is found in a picture of any size."""
    return read_luma(np.asarray(image.convert("L"), np.float32))
