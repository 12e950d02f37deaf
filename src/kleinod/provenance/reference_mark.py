"""The mark of the reference code: 46 bits in the chroma, on request and for reading only its kind.

The method is `dwtDct` of the package invisible-watermark (in spite of its name without a cosine
transform): the Haar average of 2 x 2 pixels of U, blocks of 4 x 4 averages, and in each block the
largest one but the first moved to a quarter (a zero) or three quarters (a one) of a step of 36. Bit
n stands in every block whose number is n modulo 46. JPEG with halved chroma, resizing, cropping and
white or black surfaces destroy it: see docs/watermark.md.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# The reference's constant has 48 digits; its first two are zeros, which `bin()` drops.
BITS = tuple(map(int, "1010101111111010000111100111001111010100101110"))
STEP, BLOCK = 36, 4
# 1.6 million of 7e13 numbers have so few wrong bits; two readings are made: 5 in 100 million
MAX_WRONG_BITS = 5
_HALF = float(np.sqrt(0.5))

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class ReferenceReading:
    """How many of the 46 bits are those of the reference."""

    num_right_bits: int

    @property
    def is_present(self) -> bool:
        """Whether so many are right that chance is no explanation."""
        return self.num_right_bits >= len(BITS) - MAX_WRONG_BITS


def mark(image: Image.Image) -> Image.Image:
    """The RGB picture with the reference's bits in it."""
    pixels = np.array(image.convert("RGB"))
    blocks = _blocks(_averages(_chroma_of_bytes(pixels)))
    places = _largest(blocks)
    values = _at(blocks, places)
    wanted = (np.abs(values) // STEP + 0.25 + 0.5 * _bits_of_blocks(blocks)) * STEP
    _add_chroma(pixels, places, (np.copysign(wanted, values) - values) / 2)
    return Image.fromarray(pixels)


def read(image: Image.Image) -> ReferenceReading:
    """Compare a picture's bits with the reference's.

    The reference lays them into floats, where U is about 0, others into bytes, where it is about
    128; that makes another number of the same average. Both are tried.
    """
    pixels = np.asarray(image.convert("RGB"))
    right = (_num_right(bits(chroma(pixels))) for chroma in (_chroma_of_bytes, _chroma_of_floats))
    return ReferenceReading(max(right))


def bits(chroma: Numbers) -> NDArray[np.bool_]:
    """(46,) what the blocks say on average; all False for a picture of too few blocks."""
    blocks = _blocks(_averages(chroma))
    if blocks.shape[0] * blocks.shape[1] < len(BITS):
        return np.zeros(len(BITS), bool)
    values = _at(blocks, _largest(blocks)).ravel()
    says_one = (np.abs(values) % STEP > STEP / 2).astype(np.float64)
    number = np.arange(len(values)) % len(BITS)
    means = np.bincount(number, says_one) / np.bincount(number)
    return means * 255 > 127


def _num_right(found: NDArray[np.bool_]) -> int:
    return int(np.sum(found == np.array(BITS, bool)))


def _chroma_of_bytes(pixels: NDArray[np.uint8]) -> Numbers:
    """U from 0 to 255 in whole numbers, rounded as OpenCV does it: 14 binary places."""
    red, green, blue = (np.ascontiguousarray(pixels[..., i]).astype(np.int32) for i in range(3))
    half = 1 << 13
    luma = (4899 * red + 9617 * green + 1868 * blue + half) >> 14
    return (((blue - luma) * 8061 + (128 << 14) + half) >> 14).astype(np.float64)


def _chroma_of_floats(pixels: NDArray[np.uint8]) -> Numbers:
    """U about 0.5, as OpenCV makes it of floats."""
    red, green, blue = (pixels[..., i].astype(np.float32) for i in range(3))
    luma = red * np.float32(0.299) + green * np.float32(0.587) + blue * np.float32(0.114)
    return ((blue - luma) * np.float32(0.492) + np.float32(0.5)).astype(np.float64)


def _averages(chroma: Numbers) -> Numbers:
    """Haar averages (twice the mean) of 2 x 2 pixels, of sides that are whole multiples of 4."""
    height, width = (length // 4 * 4 for length in chroma.shape)
    whole = chroma[:height, :width] * _HALF
    # one axis after the other: the last binary place decides where a value lies on a step's edge
    down = (whole[0::2] + whole[1::2]) * _HALF
    return down[:, 0::2] + down[:, 1::2]


def _blocks(averages: Numbers) -> Numbers:
    """(rows, columns, 16) of whole blocks."""
    rows, columns = (length // BLOCK for length in averages.shape)
    whole = averages[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK)
    return whole.transpose(0, 2, 1, 3).reshape(rows, columns, BLOCK * BLOCK)


def _largest(blocks: Numbers) -> NDArray[np.intp]:
    """(rows, columns): the place of the largest amount in each block but the first."""
    return np.abs(blocks[..., 1:]).argmax(axis=2) + 1


def _at(blocks: Numbers, places: NDArray[np.intp]) -> Numbers:
    return np.take_along_axis(blocks, places[..., None], axis=2)[..., 0]


def _bits_of_blocks(blocks: Numbers) -> NDArray[np.int64]:
    rows, columns = blocks.shape[:2]
    return np.resize(np.array(BITS), rows * columns).reshape(rows, columns)


def _add_chroma(pixels: NDArray[np.uint8], places: NDArray[np.intp], change: Numbers) -> None:
    """Change U in the four pixels of one average of each block; luma and V stay."""
    rows, columns = (np.arange(count) * BLOCK for count in places.shape)
    tops = 2 * (rows[:, None] + places // BLOCK)
    lefts = 2 * (columns + places % BLOCK)
    for down, across in ((0, 0), (0, 1), (1, 0), (1, 1)):
        for channel, factor in ((1, -0.395), (2, 2.032)):
            at = tops + down, lefts + across, channel
            pixels[at] = np.clip(np.rint(pixels[at] + factor * change), 0, 255)
