"""Is a picture painted again the same? If not, which line of the receipt explains it?"""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image

from kleinod.provenance import receipt as receipts
from kleinod.provenance.receipt import Receipt

EQUAL, CLOSE, DIFFERENT = "bit-equal", "close", "different"
# what another device or kernel does to a picture in bfloat16 stays above, another seed far below
CLOSE_DB = 30.0


@dataclass(frozen=True)
class Outcome:
    """The verdict; PSNR of the file against the repeated picture with its mark, in dB."""

    verdict: str
    psnr_db: float | None
    reasons: tuple[str, ...]


def outcome(
    old: Receipt, new: Receipt, *, file_image: Image.Image, repeated: Image.Image
) -> Outcome:
    """Compare what was painted then with what was painted now.

    `new` is the whole receipt of the repetition, `repeated` the picture marked and compressed as
    the first was. The hashes of the painted pixels decide whether it is equal.
    """
    decibels = psnr_db(file_image, repeated)
    if old["picture"]["painted_sha256"] == new["picture"]["painted_sha256"]:
        note = () if decibels is not None and decibels >= CLOSE_DB else (_CHANGED,)
        return Outcome(EQUAL, decibels, note)
    reasons = tuple(receipts.differences(old, new)) or (_NOTHING,)
    is_close = decibels is not None and decibels >= CLOSE_DB
    return Outcome(CLOSE if is_close else DIFFERENT, decibels, reasons)


_CHANGED = "the painting repeats, but the pixels in the file were changed since"
_NOTHING = "no line of the receipt differs: the difference is in what it does not name"


def psnr_db(one: Image.Image, other: Image.Image) -> float | None:
    """Peak signal to noise over all channels; infinite if equal, None for two sizes."""
    if one.size != other.size:
        return None
    difference = np.asarray(one, np.float32) - np.asarray(other, np.float32)
    error = float(np.mean(difference**2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
