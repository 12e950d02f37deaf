"""Small pictures of latents, without the decoder: rgb = latents @ matrix, a few pixels per token.

The matrix is fitted by least squares for the autoencoder at hand, to pictures drawn for it:
coloured shapes that cover each other at all sizes, shaded, as what lies in photographs does.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

SIDE_PIXELS = 4  # of a token in the preview; the picture itself has 16
_NUM_PICTURES, _PICTURE_PIXELS, _NUM_SHAPES = 16, 128, 20
# pulls the matrix to nothing where the pictures do not tell; latents have a spread of about 1
_RIDGE = 1e-2


@dataclass(frozen=True)
class PreviewMap:
    """matrix (129, 3 * side * side): a token's pixels in [0, 1]; the last row is the constant."""

    matrix: Tensor

    def picture(self, latents: Tensor) -> Image.Image:
        """Preview of latents (1, 128, h, w), a quarter of the picture's width and height."""
        tokens = latents[0].flatten(1).T.float().cpu()
        pixels = tokens @ self.matrix[:-1] + self.matrix[-1]
        grid = pixels.reshape(*latents.shape[2:], SIDE_PIXELS, SIDE_PIXELS, 3).transpose(1, 2)
        whole = grid.reshape(latents.shape[2] * SIDE_PIXELS, -1, 3).nan_to_num(0).clamp(0, 1)
        return Image.fromarray((whole * 255).round().byte().numpy())


@torch.inference_mode()
def fitted(encode: Callable[[Sequence[Image.Image]], Tensor]) -> PreviewMap:
    """The map for an autoencoder; encode gives tokens (1, n, 128) of several pictures in order."""
    random = np.random.default_rng(0)
    pictures = [drawn(random, _PICTURE_PIXELS) for _ in range(_NUM_PICTURES)]
    tokens = torch.cat([encode([picture])[0].double().cpu() for picture in pictures])
    ones = torch.ones(len(tokens), 1, dtype=torch.float64)
    known = torch.cat((tokens, ones), dim=1)
    wanted = torch.cat([_pixels(picture) for picture in pictures])
    ridge = _RIDGE * len(tokens) * torch.eye(known.shape[1], dtype=torch.float64)
    ridge[-1, -1] = 0
    matrix = torch.linalg.solve(known.T @ known + ridge, known.T @ wanted)
    return PreviewMap(matrix.float())


def _pixels(picture: Image.Image) -> Tensor:
    """(n, 3 * side * side): the pixels of the preview that each token should give."""
    small = picture.reduce(16 // SIDE_PIXELS)
    values = torch.from_numpy(np.asarray(small, dtype=np.float64) / 255)
    blocks = values.unfold(0, SIDE_PIXELS, SIDE_PIXELS).unfold(1, SIDE_PIXELS, SIDE_PIXELS)
    return blocks.permute(0, 1, 3, 4, 2).flatten(0, 1).flatten(1)


def drawn(random: np.random.Generator, side: int) -> Image.Image:
    """A square of ellipses and boxes over each other on a ground, with shading and grain."""
    picture = Image.new("RGB", (side, side), _colour(random))
    draw = ImageDraw.Draw(picture)
    for _ in range(_NUM_SHAPES):
        # many small, few large
        size = side * 0.04 / random.uniform(0.05, 1, 2)
        corner = random.uniform(-0.2, 1, 2) * side
        box = [*corner, *(corner + size)]
        shape = draw.ellipse if random.random() < 0.6 else draw.rectangle
        shape(box, fill=_colour(random))
    dark, light = random.uniform(0.6, 1.1, 2)
    shade = np.linspace(dark, light, side)[:, None, None]
    grain = random.normal(0, 4, (side, side, 3))
    pixels = np.asarray(picture, dtype=np.float64) * shade + grain
    turned = np.rot90(pixels, int(random.integers(4)))
    return Image.fromarray(turned.clip(0, 255).astype(np.uint8))


def _colour(random: np.random.Generator) -> tuple[int, int, int]:
    """Any colour; every fifth has no half-tones, for without them white comes out grey."""
    has_half_tones = random.random() < 0.8
    red, green, blue = random.integers(0, 256, 3) if has_half_tones else random.choice((0, 255), 3)
    return int(red), int(green), int(blue)
