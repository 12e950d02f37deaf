"""Score painted scenes by the nearest training icon.

The oracle cuts out where an object should be and finds the icon, placed there with a little shift
and in a few sizes on the asked background, that is nearest in squared error at 24×24. It knows no
semantics: a blurred picture with the right outline and colours passes, so look at the sheets too.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.training.icons import STYLES, Icons
from kleinod.training.layouts import BACKGROUNDS, SIZE
from kleinod.training.scenes import Composer, Scene, Thing, held_out

_CELLS = 24
_SHIFTS = (-6, -3, 0, 3, 6)
_SCALES = (0.92, 1.0, 1.08)


@dataclass(frozen=True)
class Verdict:
    """The nearest icon's concept and style."""

    concept: int
    style: int


@dataclass
class NearestIcon:
    """The oracle over all icons; templates of one window are kept."""

    icons: Icons
    _templates: dict[float, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def verdict(self, picture: np.ndarray, thing: Thing, background: str) -> Verdict:
        """What stands where `thing` should be in picture (128, 128, 3), uint8."""
        if thing.side not in self._templates:
            self._templates[thing.side] = self._drawn(thing.side)
        colours, alphas = self._templates[thing.side]
        ground = torch.tensor(BACKGROUNDS[background]) / 255
        templates = (colours + (1 - alphas) * ground[:, None, None]).flatten(1)
        window = _window(torch.from_numpy(picture.copy()).float() / 255, thing)
        scores = templates.pow(2).sum(1) - 2 * templates @ window.flatten()
        best = int(scores.argmin()) // (len(_SCALES) * len(_SHIFTS) ** 2)
        return Verdict(int(self.icons.concept[best]), int(self.icons.style[best]))

    def _drawn(self, side: float) -> tuple[Tensor, Tensor]:
        """Premultiplied colours (n, 3, c, c) and alphas (n, 1, c, c) of all shifts and sizes."""
        pixels = torch.from_numpy(self.icons.pixels).permute(0, 3, 1, 2).float() / 255
        pixels[:, :3] *= pixels[:, 3:]
        placed = []
        for scale in _SCALES:
            small = F.interpolate(pixels, size=round(side * scale), mode="area")
            room = round(side * 1.25)
            for dy in _SHIFTS:
                for dx in _SHIFTS:
                    left = (room - small.shape[-1]) // 2 + dx
                    top = (room - small.shape[-1]) // 2 + dy
                    rest = room - small.shape[-1]
                    whole = F.pad(small, (left, rest - left, top, rest - top))
                    placed.append(F.adaptive_avg_pool2d(whole, _CELLS))
        stacked = torch.stack(placed, dim=1).flatten(0, 1)
        return stacked[:, :3], stacked[:, 3:]


def _window(picture: Tensor, thing: Thing) -> Tensor:
    """(3, c, c) around a thing of picture (h, w, 3); what lies outside repeats the edge."""
    room = round(thing.side * 1.25)
    left, top = (round(c - room / 2) for c in thing.centre)
    rows = (torch.arange(room) + top).clamp(0, SIZE - 1)
    columns = (torch.arange(room) + left).clamp(0, SIZE - 1)
    cut = picture[rows][:, columns].permute(2, 0, 1)
    return F.adaptive_avg_pool2d(cut, _CELLS)


def background_of(picture: np.ndarray) -> str:
    """The named background nearest to the picture's border."""
    border = np.concatenate([picture[:4].reshape(-1, 3), picture[-4:].reshape(-1, 3)])
    colour = np.median(border.astype(float), axis=0)
    return min(BACKGROUNDS, key=lambda name: float(((colour - BACKGROUNDS[name]) ** 2).sum()))


def single_scenes(composer: Composer, count: int) -> list[tuple[Scene, str]]:
    """Held-out scenes of one object in the middle and their prompts, never trained on."""
    every = [
        Scene((Thing(concept),), style, background)
        for concept in range(len(composer.names))
        for style in range(len(STYLES))
        for background in BACKGROUNDS
    ]
    scenes = [scene for scene in every if held_out(scene)]
    chosen = [scenes[i] for i in composer.rng.choice(len(scenes), count, replace=False)]
    return [(scene, composer.describe(scene)) for scene in chosen]


def score_singles(
    oracle: NearestIcon, scenes: list[Scene], pictures: list[np.ndarray]
) -> dict[str, float]:
    """Shares of right concepts, styles and backgrounds."""
    verdicts = [
        oracle.verdict(picture, scene.things[0], scene.background)
        for scene, picture in zip(scenes, pictures, strict=True)
    ]
    pairs = list(zip(verdicts, scenes, strict=True))
    grounds = [background_of(p) == s.background for p, s in zip(pictures, scenes, strict=True)]
    return {
        "concept": float(np.mean([v.concept == s.things[0].concept for v, s in pairs])),
        "style": float(np.mean([v.style == s.style for v, s in pairs])),
        "background": float(np.mean(grounds)),
    }


def score_pairs(
    oracle: NearestIcon, scenes: list[Scene], pictures: list[np.ndarray]
) -> dict[str, float]:
    """Shares of pictures with both objects, and of objects, right and in place."""
    right = [
        [oracle.verdict(picture, t, scene.background).concept == t.concept for t in scene.things]
        for scene, picture in zip(scenes, pictures, strict=True)
    ]
    return {"both": float(np.mean([all(r) for r in right])), "each": float(np.mean(right))}
