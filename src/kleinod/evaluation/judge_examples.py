"""Windows to train the oracle on: icons as they should be, and what must not pass for them.

Clear: icons of every style on every background, shifted, scaled, a little bent or softened, many
through the autoencoder with some noise on the latents. Unclear: two icons blended or spliced, in
pixels or in latents; strongly bent, blurred, shuffled or torn icons; lone palettes. Nothing: empty
windows, and such that only a neighbour's edge reaches into.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import Tensor

from kleinod.evaluation.judge import NOTHING, ROOM, UNCLEAR, Box, window_of
from kleinod.icons.icons import Icons
from kleinod.icons.layouts import BACKGROUNDS, SIZE, TINTS
from kleinod.models.autoencoder import Autoencoder
from kleinod.training.flow import autocast

_Layout = tuple[tuple[tuple[float, ...], ...], float]
# centres and side of things that share a picture
_LAYOUTS: tuple[_Layout, ...] = (
    (((34, 64), (94, 64)), 60.0),
    (((64, 34), (64, 94)), 60.0),
    (((36, 36), (92, 36), (36, 92), (92, 92)), 52.0),
    (((36, 92), (92, 92), (64, 36)), 54.0),
    (((24, 64), (64, 64), (104, 64)), 40.0),
)


# mean change of premultiplied RGBA (0 to 1) under which a distortion still is the object
_MIN_CHANGE = 0.03


@dataclass(frozen=True)
class Placed:
    """A thing on a canvas: concept (or UNCLEAR), style, colour (0: its own), box."""

    concept: int
    style: int
    tint: int
    box: Box


@dataclass
class Canvas:
    """A picture (128, 128, 3), uint8, and what stands on it."""

    picture: np.ndarray
    things: list[Placed]


@dataclass(frozen=True)
class Batch:
    """Windows (n, 3, 64, 64); concepts (n,) with UNCLEAR and NOTHING counted behind the last;
    styles (n,), -1 where there is none; tints (n,); places (n, 3)."""

    windows: Tensor
    concepts: Tensor
    styles: Tensor
    tints: Tensor
    places: Tensor


@dataclass
class Examples:
    """A pool of canvases, partly renewed at every batch, that windows are cut from."""

    icons: Icons
    autoencoder: Autoencoder
    seed: int = 0
    pool: list[Canvas] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        self.torch_rng = torch.Generator().manual_seed(self.seed)
        self.drawings = _premultiplied(self.icons.pixels)
        self.clear = self._bank()
        self.unclear: list[Image.Image] = []

    def prepare(self, canvases: int, encoded: int, distortions: int) -> None:
        """Fill the pool: so many composed canvases, and so many through the autoencoder."""
        self.unclear = [icon for _ in range(distortions // 80) for icon in self._distorted()]
        self.pool = [self._canvas() for _ in range(canvases)]
        fixed = [self._canvas() for _ in range(encoded)]
        for start in range(0, encoded, 20):
            self.pool += self._encoded(fixed[start : start + 20])
        self.encoded = encoded

    def batch(self, count: int, renewed: int = 8) -> Batch:
        """Windows of random canvases; some canvases are renewed first."""
        for _ in range(renewed):
            self.pool[int(self.rng.integers(len(self.pool) - self.encoded))] = self._canvas()
        cut = [
            self._window(self.pool[int(self.rng.integers(len(self.pool)))]) for _ in range(count)
        ]
        windows, things, places = zip(*cut, strict=True)
        top = len(self.icons.names) - 1
        numbers = [t.concept if t.concept >= 0 else top - t.concept for t in things]
        styles, tints = [t.style for t in things], [t.tint for t in things]
        parts = (torch.tensor(part) for part in (numbers, styles, tints, places))
        return Batch(torch.stack(windows), *parts)

    def _window(self, canvas: Canvas) -> tuple[Tensor, Placed, list[float]]:
        if self.rng.random() < 0.06 or not canvas.things:
            box = self._empty_box(canvas)
            if box is not None:
                return window_of(canvas.picture, box), Placed(NOTHING, -1, 0, box), [0.0] * 3
        thing = canvas.things[int(self.rng.integers(len(canvas.things)))]
        side = thing.box.side * 2 ** self.rng.uniform(-0.3, 0.3)
        dx, dy = self.rng.uniform(-0.14, 0.14, 2) * side
        box = Box((thing.box.centre[0] + dx, thing.box.centre[1] + dy), side)
        room = side * ROOM
        place = [-dx / room, -dy / room, float(np.log2(thing.box.side / side))]
        return window_of(canvas.picture, box), thing, place

    def _empty_box(self, canvas: Canvas) -> Box | None:
        """A box that no thing stands in, though one may reach over its edge."""
        for _ in range(4):
            side = self.rng.uniform(40, 70)
            x, y = self.rng.uniform(30, 98, 2)
            gaps = [
                max(abs(x - t.box.centre[0]), abs(y - t.box.centre[1])) - (side + t.box.side) / 2
                for t in canvas.things
            ]
            if all(gap > -0.06 * side for gap in gaps):
                return Box((x, y), side)
        return None

    def _canvas(self) -> Canvas:
        """One thing, several, or none; a tenth of a window's side of jitter."""
        ground = list(BACKGROUNDS)[int(self.rng.integers(len(BACKGROUNDS)))]
        colour = np.array(BACKGROUNDS[ground]) + self.rng.integers(-8, 9, 3)
        canvas = Image.new("RGB", (SIZE, SIZE), tuple(colour.clip(0, 255).tolist()))
        kind = self.rng.random()
        if kind < 0.03:
            return Canvas(np.asarray(canvas), [])
        if kind < 0.5:
            layout: _Layout = (((64, 64),), 104.0)
        elif kind < 0.6:
            layout = ((tuple(self.rng.uniform(36, 92, 2)),), 66.0)
        else:
            layout = _LAYOUTS[int(self.rng.integers(len(_LAYOUTS)))]
        places, side = layout
        things = [self._pasted(canvas, place, side, ground=ground) for place in places]
        return Canvas(np.asarray(canvas), things)

    def _pasted(
        self, canvas: Image.Image, place: tuple[float, ...], side: float, *, ground: str
    ) -> Placed:
        is_clear = self.rng.random() < 0.7
        bank: list[Image.Image] = self.clear if is_clear else self.unclear
        index = int(self.rng.integers(len(bank)))
        side = max(8, round(side * self.rng.uniform(0.88, 1.1)))
        x, y = (round(c + self.rng.uniform(-5, 5) - side / 2) for c in place)
        tint = int(self.rng.integers(1, len(TINTS) + 1)) if self.rng.random() < 0.12 else 0
        tint = 0 if tint and TINTS[tint - 1] == ground else tint
        icon = tinted(bank[index], tint).resize((side, side))
        if self.rng.random() < 0.3:
            icon = icon.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        canvas.paste(icon, (x, y), icon)
        source = index % len(self.icons.pixels)
        concept = int(self.icons.concept[source]) if is_clear else UNCLEAR
        style = int(self.icons.style[source]) if is_clear else -1
        return Placed(concept, style, tint, Box((x + side / 2, y + side / 2), float(side)))

    def _bank(self) -> list[Image.Image]:
        """Every icon as it is, a little bent, with unsteady edges, and unsteady and soft."""
        icons = self.drawings
        unsteady = self._bent(icons, 0.016, 14), blurred(self._bent(icons, 0.02, 11), 1.2)
        parts = [icons, self._bent(icons, 0.02), *unsteady]
        return [pictured(icon) for part in parts for icon in part]

    def _bent(self, icons: Tensor, strength: float, cells: int = 5) -> Tensor:
        """Pulled about smoothly, by `strength` of a side (as a standard deviation)."""
        field = torch.randn(len(icons), 2, cells, cells, generator=self.torch_rng) * strength * 2
        shift = F.interpolate(field, size=SIZE, mode="bicubic", align_corners=True)
        grid = F.affine_grid(torch.eye(2, 3)[None], [1, 1, SIZE, SIZE], False)
        return F.grid_sample(icons, grid + shift.permute(0, 2, 3, 1), align_corners=False)

    def _distorted(self) -> list[Image.Image]:
        """Eighty icons, ten of each kind of distortion, without those that it hardly changes (a
        blurred cloud is a cloud)."""
        rows = torch.from_numpy(self.rng.integers(0, len(self.drawings), (2, 80)))
        icons, others = self.drawings[rows[0]], self.drawings[rows[1]]
        same = torch.from_numpy(self.icons.concept)[rows]
        others = torch.where((same[0] == same[1])[:, None, None, None], others.flip(2), others)
        share = torch.from_numpy(self.rng.uniform(0.35, 0.65, (10, 1, 1, 1))).float()
        first, second, *tens = torch.split(icons, 10)
        made = torch.cat(
            [
                first.lerp(others[:10], share),
                _spliced(second, others[10:20], self.torch_rng),
                self._bent(tens[0], float(self.rng.uniform(0.07, 0.11)), 6),
                self._bent(tens[1], float(self.rng.uniform(0.05, 0.08)), 12),
                blurred(self._bent(tens[2], 0.05), float(self.rng.uniform(3.5, 8.0))),
                self._shuffled(tens[3]),
                self._torn(tens[4]),
                self._wrong_inside(tens[5]),
            ]
        )
        changed = (made - icons).abs().mean((1, 2, 3)) > _MIN_CHANGE
        return [pictured(icon) for icon in made[changed]]

    def _wrong_inside(self, icons: Tensor) -> Tensor:
        """The right outline and palette; inside, the colours pulled about or run together."""
        soft = blurred(icons, 7.0)
        loose = torch.where(torch.arange(len(icons))[:, None, None, None] % 2 == 0, icons, soft)
        bent = self._bent(loose, 0.1, 7)
        whole = bent + (1 - bent[:, 3:]) * soft / soft[:, 3:].clamp(min=0.05)
        return torch.cat((whole[:, :3].clamp(0, 1) * icons[:, 3:], icons[:, 3:]), dim=1)

    def _shuffled(self, icons: Tensor) -> Tensor:
        """Cells of a quarter of the side changed about, then softened: colours without a form."""
        cells = icons.unfold(2, 32, 32).unfold(3, 32, 32).flatten(2, 3)
        order = torch.stack([torch.randperm(16, generator=self.torch_rng) for _ in icons])
        mixed = cells.gather(2, order[:, None, :, None, None].expand_as(cells))
        rows = (
            mixed.reshape(len(icons), 4, 4, 4, 32, 32).transpose(3, 4).flatten(4, 5).flatten(2, 3)
        )
        return blurred(self._bent(rows, 0.04), 3.0)

    def _torn(self, icons: Tensor) -> Tensor:
        """Only what lies under a smooth patch covering about half."""
        noise = torch.randn(len(icons), 1, 4, 4, generator=self.torch_rng)
        patch = F.interpolate(noise, size=SIZE, mode="bicubic")
        inside = icons[:, 3:] > 0.5
        middle = torch.stack([p[i].median() for p, i in zip(patch, inside, strict=True)])
        return self._bent(icons, 0.03) * torch.sigmoid((patch - middle[:, None, None, None]) * 8)

    @torch.inference_mode()
    def _encoded(self, canvases: list[Canvas]) -> list[Canvas]:
        """The canvases through the autoencoder; a quarter of those with one thing come out mixed
        with another, or as noise, and their things unclear."""
        stacked = torch.from_numpy(np.stack([c.picture for c in canvases])).permute(0, 3, 1, 2)
        scaled = (stacked.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)
        with autocast():
            latents = self.autoencoder.encode(scaled).float()
            spread = torch.rand(len(latents), 1, 1, 1, generator=self.torch_rng) * 0.35
            noise = torch.randn(latents.shape, generator=self.torch_rng)
            spoiled = torch.rand(len(latents), generator=self.torch_rng) < 0.22
            mixed = _spoiled(latents, self.torch_rng)
            latents = torch.where(spoiled[:, None, None, None], mixed, latents + spread * noise)
            made = self.autoencoder.decode(latents).float()
        pictures = ((made.clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).numpy()
        return [
            Canvas(p, [Placed(UNCLEAR, -1, 0, t.box) for t in c.things] if bad else c.things)
            for p, c, bad in zip(pictures, canvases, spoiled.tolist(), strict=True)
        ]


def _premultiplied(pixels: np.ndarray) -> Tensor:
    """RGBA (n, h, h, 4), uint8, as (n, 4, 128, 128) of 0 to 1, colours times alpha."""
    icons = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    icons[:, :3] *= icons[:, 3:]
    return F.interpolate(icons, size=SIZE, mode="area")


def tinted(icon: Image.Image, tint: int) -> Image.Image:
    """An icon in one of TINTS (counted from 1), as scenes have it; 0 leaves its own colours."""
    if not tint:
        return icon
    colour = BACKGROUNDS[TINTS[tint - 1]]
    dark, pale = tuple(c // 5 for c in colour), tuple(255 - (255 - c) // 5 for c in colour)
    made = ImageOps.colorize(icon.convert("L"), dark, pale, colour).convert("RGBA")
    made.putalpha(icon.getchannel("A"))
    return made


def _spoiled(latents: Tensor, rng: torch.Generator) -> Tensor:
    """Latents between two pictures, with much noise, or smoothed, a third of each."""
    count = len(latents)
    share = torch.rand(count, 1, 1, 1, generator=rng) * 0.3 + 0.35
    between = latents.lerp(latents.roll(1, 0), share)
    noisy = latents + torch.randn(latents.shape, generator=rng) * (0.8 + share)
    smooth = F.avg_pool2d(F.pad(latents, (1, 1, 1, 1), mode="replicate"), 3, 1)
    kind = torch.randint(3, (count, 1, 1, 1), generator=rng)
    return torch.where(kind == 0, between, torch.where(kind == 1, noisy, smooth))


def _spliced(icons: Tensor, others: Tensor, rng: torch.Generator) -> Tensor:
    """One icon on one side of a soft line through the middle, another on the other side."""
    angle = torch.rand(len(icons), 1, 1, generator=rng) * 6.283
    y, x = torch.meshgrid(*[torch.linspace(-1, 1, SIZE)] * 2, indexing="ij")
    mask = torch.sigmoid((x * angle.cos() + y * angle.sin()) * 12)[:, None]
    return icons * mask + others * (1 - mask)


def blurred(icons: Tensor, sigma: float) -> Tensor:
    """Softened by a Gaussian of `sigma` pixels."""
    reach = torch.arange(-round(3 * sigma), round(3 * sigma) + 1).float()
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(icons.shape[1], 1, 1, -1)
    half = len(reach) // 2
    across = F.conv2d(F.pad(icons, (half, half, 0, 0)), kernel, groups=icons.shape[1])
    down = F.pad(across, (0, 0, half, half))
    return F.conv2d(down, kernel.transpose(2, 3), groups=icons.shape[1])


def pictured(icon: Tensor) -> Image.Image:
    """An RGBA picture of premultiplied (4, h, w)."""
    alpha = icon[3:].clamp(0, 1)
    colour = (icon[:3] / alpha.clamp(min=1e-3)).clamp(0, 1)
    pixels = (torch.cat((colour, alpha)) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(pixels, "RGBA")
