"""Pictures to mark, photographs and flat ones, and what may happen to a picture on its way."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance
from skimage import data

Attack = Callable[[Image.Image], Image.Image]
BICUBIC, BILINEAR, LANCZOS = (
    Image.Resampling.BICUBIC,
    Image.Resampling.BILINEAR,
    Image.Resampling.LANCZOS,
)
PHOTOGRAPHS = ("astronaut", "coffee", "chelsea", "rocket")


def photograph(name: str, side: int) -> Image.Image:
    """The middle square of one of scikit-image's photographs."""
    picture = Image.fromarray(getattr(data, name)())
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge))
    return square.resize((side, side), LANCZOS)


def _face(draw: ImageDraw.ImageDraw, colour: str, n: int) -> None:
    draw.ellipse((n * 0.2, n * 0.2, n * 0.8, n * 0.8), fill=colour)
    for left in (0.35, 0.58):
        draw.ellipse((n * left, n * 0.4, n * (left + 0.07), n * 0.47), fill="black")
    draw.arc((n * 0.35, n * 0.4, n * 0.65, n * 0.7), 20, 160, fill="black", width=n // 60)


def _tree(draw: ImageDraw.ImageDraw, colour: str, n: int) -> None:
    draw.polygon([(n * 0.5, n * 0.15), (n * 0.85, n * 0.85), (n * 0.15, n * 0.85)], fill=colour)
    draw.rectangle((n * 0.45, n * 0.6, n * 0.55, n * 0.85), fill="brown")


def _bars(draw: ImageDraw.ImageDraw, colour: str, n: int) -> None:
    for index in range(6):
        left = 0.15 + 0.12 * index
        box = (n * left, n * 0.2, n * (left + 0.07), n * 0.8)
        draw.rounded_rectangle(box, n // 40, fill=colour if index % 2 else "white")


def _nothing(draw: ImageDraw.ImageDraw, colour: str, n: int) -> None:
    del draw, colour, n


FLAT: dict[str, tuple[str, str, Callable[[ImageDraw.ImageDraw, str, int], None]]] = {
    "face on white": ("white", "#ffcc33", _face),
    "face on black": ("black", "#ffcc33", _face),
    "tree on blue": ("#3366cc", "#22aa44", _tree),
    "tree on red": ("#ff0000", "#ffff00", _tree),
    "bars on grey": ("#888888", "#cc3344", _bars),
    "bars on navy": ("#000080", "#00ffff", _bars),
    "white page": ("white", "white", _nothing),
}


def flat_picture(name: str, side: int) -> Image.Image:
    """A drawing as an emoji font has them: few colours, smooth edges, nothing else."""
    background, colour, drawing = FLAT[name]
    large = Image.new("RGB", (side * 2, side * 2), background)
    drawing(ImageDraw.Draw(large), colour, side * 2)
    return large.resize((side, side), LANCZOS)


def picture(name: str, side: int) -> Image.Image:
    """A photograph or a drawing, by its name."""
    return photograph(name, side) if name in PHOTOGRAPHS else flat_picture(name, side)


def saved(format_name: str, quality: int) -> Attack:
    """Written and read again."""

    def attack(picture: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        picture.save(buffer, format_name, quality=quality)
        return Image.open(buffer).convert("RGB")

    return attack


def resized(scale: float, resample: Image.Resampling = LANCZOS) -> Attack:
    """Both sides times scale."""

    def attack(picture: Image.Image) -> Image.Image:
        size = round(picture.width * scale), round(picture.height * scale)
        return picture.resize(size, resample)

    return attack


def cropped(share: float, corner: tuple[float, float]) -> Attack:
    """A share cut off of both sides; corner (0, 0): all left and top, (1, 1): right and bottom."""

    def attack(picture: Image.Image) -> Image.Image:
        across, down = round(picture.width * share), round(picture.height * share)
        left, top = round(across * (1 - corner[0])), round(down * (1 - corner[1]))
        box = (left, top, left + picture.width - across, top + picture.height - down)
        return picture.crop(box)

    return attack


def brighter(factor: float) -> Attack:
    """Every value times factor."""
    return lambda picture: ImageEnhance.Brightness(picture).enhance(factor)


def after(first: Attack, second: Attack) -> Attack:
    """One, then the other."""
    return lambda picture: second(first(picture))


ATTACKS: dict[str, Attack] = {
    "nothing": lambda picture: picture,
    "JPEG 90": saved("JPEG", 90),
    "JPEG 75": saved("JPEG", 75),
    "WebP 80": saved("WEBP", 80),
    "resized 0.5": resized(0.5),
    "resized 0.5 bilinear": resized(0.5, BILINEAR),
    "resized 0.63": resized(0.63),
    "resized 0.75": resized(0.75),
    "resized 1.1": resized(1.1),
    "resized 1.5 bicubic": resized(1.5, BICUBIC),
    "cropped 10 % left, top": cropped(0.1, (0, 0)),
    "cropped 10 % all round": cropped(0.1, (0.5, 0.5)),
    "10 % brighter": brighter(1.1),
    "10 % darker": brighter(0.9),
    "resized 0.75, JPEG 75": after(resized(0.75), saved("JPEG", 75)),
    "cropped 10 %, JPEG 75": after(cropped(0.1, (0.5, 0.5)), saved("JPEG", 75)),
}


def psnr(one: Image.Image, other: Image.Image) -> float:
    """Peak signal to noise in dB over all channels."""
    difference = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    return float(10 * np.log10(255**2 / max(np.mean(difference**2), 1e-12)))


def unmarked(seed: int, side: int) -> Image.Image:
    """A picture nobody marked: a piece of a photograph, a drawing or noise, by turns."""
    draw = np.random.default_rng(seed)
    kind = seed % 3
    if kind == 0:
        picture = Image.fromarray(getattr(data, PHOTOGRAPHS[seed // 3 % 4])())
        edge = int(draw.integers(min(side, 200), min(picture.size) + 1))
        left, top = (int(draw.integers(0, length - edge + 1)) for length in picture.size)
        return picture.crop((left, top, left + edge, top + edge)).resize((side, side), LANCZOS)
    if kind == 1:
        picture = Image.new("RGB", (side, side), tuple(draw.integers(0, 256, 3).tolist()))
        pen = ImageDraw.Draw(picture)
        for _ in range(int(draw.integers(1, 12))):
            x, y, w, h = (draw.random(4) * side).tolist()
            pen.ellipse((x - w, y - h, x + w, y + h), tuple(draw.integers(0, 256, 3).tolist()))
        return picture
    coarse = draw.integers(0, 256, (int(draw.integers(4, side)),) * 2 + (3,), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), BICUBIC)
