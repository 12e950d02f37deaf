"""The oracle: says what stands in a window of a picture, and refuses what is half formed.

A small convolutional network reads windows of 64 × 64 pixels and tells concept, style, and where
the object stands and how large it is. Besides the concepts it knows `UNCLEAR` (blurred, mixed,
torn or only the right colours) and `NOTHING`. Colours of backgrounds are measured, not learned.
It knows nothing about models, prompts or training.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from kleinod.errors import WeightsError

WEIGHTS = Path(__file__).parent / "oracle" / "oracle.safetensors"
WINDOW = 64  # pixels of a window's side as the network sees it
ROOM = 1.25  # a window's side over the side of the object that is expected in it
FEATURES = 96
UNCLEAR, NOTHING = -1, -2
STRICTNESS, GLANCE = 1.0, 3.0
_CHANNELS = (32, 64, 80, 128, 160, 160)
_STRIDES = (2, 2, 1, 2, 1, 2)


@dataclass(frozen=True)
class Box:
    """Where an object is expected: centre (x, y) and side, in pixels."""

    centre: tuple[float, float]
    side: float


@dataclass(frozen=True)
class Sighting:
    """What a window shows: a concept's number, UNCLEAR or NOTHING, and for a concept the rest.

    tint 0 means its own colours, 1 the first of the oracle's; is_clear: at a glance.
    """

    concept: int
    style: int
    tint: int
    is_clear: bool
    centre: tuple[float, float]
    side: float


class OracleNetwork(nn.Module):
    """Windows (b, 3, 64, 64) in [-1, 1] to logits of concepts (with UNCLEAR and NOTHING at their
    end), of styles, of colours (0: its own), and place (dx, dy in window sides, log2 of the size
    over the expected one)."""

    def __init__(self, num_concepts: int, num_styles: int, num_tints: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, stride in zip(_CHANNELS, _STRIDES, strict=True):
            layers += [
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(),
            ]
            inputs = outputs
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs * 16, FEATURES))
        self.concept = nn.Linear(FEATURES, num_concepts + 2)
        self.style = nn.Linear(FEATURES, num_styles)
        self.tint = nn.Linear(FEATURES, num_tints + 1)
        self.place = nn.Linear(FEATURES, 3)

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Concepts (b, n + 2), styles (b, s), colours (b, t + 1), places (b, 3)."""
        features = F.relu(self.trunk(windows))
        heads = self.concept, self.style, self.tint, self.place
        return tuple(head(features) for head in heads)


@dataclass
class Oracle:
    """A trained network, the names of its classes, and how readily it says UNCLEAR.

    `strictness` is added to the logit of UNCLEAR. What beats UNCLEAR by `glance` is clear at a
    glance: that is set where the oracle counts as many as the eye does.
    """

    network: OracleNetwork
    concepts: tuple[str, ...]
    styles: tuple[str, ...]
    tints: tuple[str, ...]
    strictness: float = STRICTNESS
    glance: float = GLANCE

    @classmethod
    def load(cls, path: Path = WEIGHTS) -> "Oracle":
        """Read what `save` wrote. Raises WeightsError."""
        if not path.is_file():
            raise WeightsError(f"oracle: {path} is missing; run recipes/mini/train_oracle.py")
        with safe_open(path, framework="pt") as file:
            facts = json.loads(file.metadata()["oracle"])
            state = {name: file.get_tensor(name).float() for name in file.keys()}
        concepts, styles, tints = (tuple(facts[kind]) for kind in ("concepts", "styles", "tints"))
        network = OracleNetwork(len(concepts), len(styles), len(tints))
        state |= {n: t for n, t in network.state_dict().items() if n.endswith("batches_tracked")}
        network.load_state_dict(state)
        return cls(network.eval(), concepts, styles, tints, facts["strictness"], facts["glance"])

    def save(self, path: Path) -> None:
        """Weights in bfloat16 and the names, in one safetensors file."""
        state = {
            name: tensor.bfloat16().contiguous()
            for name, tensor in self.network.state_dict().items()
            if not name.endswith("batches_tracked")
        }
        facts = {
            "concepts": self.concepts,
            "styles": self.styles,
            "tints": self.tints,
            "strictness": self.strictness,
            "glance": self.glance,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(state, path, {"oracle": json.dumps(facts)})

    @torch.inference_mode()
    def look(self, picture: np.ndarray, boxes: Sequence[Box]) -> list[Sighting]:
        """What stands in each box of a picture (h, w, 3), uint8."""
        if not boxes:
            return []
        windows = torch.stack([window_of(picture, box) for box in boxes])
        concepts, styles, tints, places = self.network(windows)
        clear = concepts[:, :-2].amax(1) - concepts[:, -2] >= self.glance
        concepts[:, -2] += self.strictness
        found, count = concepts.argmax(1), len(self.concepts)
        numbers = torch.where(found < count, found, count - 1 - found)
        columns = numbers, styles.argmax(1), tints.argmax(1), clear, places
        rows = zip(*(column.tolist() for column in columns), boxes, strict=True)
        return [_sighting(*row) for row in rows]

    @torch.inference_mode()
    def features(self, pictures: Sequence[np.ndarray]) -> Tensor:
        """(n, 96): what the network's last layer makes of whole pictures."""
        boxes = [Box((p.shape[1] / 2, p.shape[0] / 2), min(p.shape[:2]) / ROOM) for p in pictures]
        windows = [window_of(p, box) for p, box in zip(pictures, boxes, strict=True)]
        return F.relu(self.network.trunk(torch.stack(windows)))


def _sighting(*row: Any) -> Sighting:  # noqa: ANN401 - a row of mixed columns
    concept, style, tint, is_clear, place, box = row
    room = box.side * ROOM
    centre = box.centre[0] + place[0] * room, box.centre[1] + place[1] * room
    return Sighting(concept, style, tint, is_clear, centre, box.side * 2.0 ** place[2])


def window_of(picture: np.ndarray, box: Box) -> Tensor:
    """(3, 64, 64) in [-1, 1] around a box; what lies outside repeats the picture's edge."""
    room = max(2, round(box.side * ROOM))
    left, top = (round(c - room / 2) for c in box.centre)
    rows = (np.arange(room) + top).clip(0, picture.shape[0] - 1)
    columns = (np.arange(room) + left).clip(0, picture.shape[1] - 1)
    cut = torch.from_numpy(picture[rows[:, None], columns]).permute(2, 0, 1)[None].float()
    sized = F.interpolate(cut, size=(WINDOW, WINDOW), mode="bilinear", antialias=True)
    return sized[0] / 127.5 - 1
