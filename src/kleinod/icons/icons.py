"""Named icons from openly licensed packages, rasterised once into one array file.

A pre-training filter drops stated categories by name and tag before anything is drawn, and says
what it dropped. Packages are the unpacked npm archives; recipes/mini names them and their licences.
"""

import io
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kleinod.extras import missing_package

SIZE = 256
STYLES = ("cartoon", "flat", "3D")
OBJECT_GROUPS = (3, 4, 5, 6, 7)
FILTERED = {
    "weapons": "weapon gun pistol bomb dagger knife sword swords axe grenade archer explosive",
    "tobacco": "cigarette smoking tobacco cigar",
    "alcohol": "alcohol beer wine cocktail sake liquor champagne drunk booze vodka",
    "gestures": "finger insult",
    "death": "coffin headstone funeral grave skull dead death",
    "drugs and medicine": "syringe pill drug needle",
}


@dataclass(frozen=True)
class Icons:
    """RGBA pictures (n, 256, 256, 4), uint8, with a concept and a style index for each."""

    pixels: np.ndarray
    concept: np.ndarray
    style: np.ndarray
    names: tuple[str, ...]

    @classmethod
    def load(cls, path: Path) -> "Icons":
        """Read what `build` saved."""
        with np.load(path) as file:
            return cls(
                file["pixels"], file["concept"], file["style"], tuple(file["names"].tolist())
            )


def dropped_by_filter(entry: dict[str, Any]) -> str | None:
    """The category for which an emojibase entry is left out of training, or None."""
    words = set(re.findall(r"[a-z]+", " ".join([entry["label"], *entry.get("tags", [])]).lower()))
    for category, listed in FILTERED.items():
        if words & set(listed.split()):
            return category
    return None


def read_concepts(path: Path) -> dict[str, str]:
    """Label to caption word, in order, from a concept list."""
    lines = [line.split("#")[0].strip() for line in path.read_text("utf-8").splitlines()]
    pairs = [line.partition("=") for line in lines if line]
    return {label.strip(): (word or label).strip() for label, _, word in pairs}


def _draw_svg(package: dict[str, Any], name: str) -> Image.Image:
    try:
        import resvg_py
    except ModuleNotFoundError as error:
        raise missing_package("icons", "resvg_py", extra="train") from error

    icon = package["icons"][name]
    width = icon.get("width", package.get("width", 16))
    height = icon.get("height", package.get("height", 16))
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="0 0 {width} {height}" width="{SIZE}" height="{SIZE}">{icon["body"]}</svg>'
    )
    png = bytes(resvg_py.svg_to_bytes(svg_string=svg))
    return Image.open(io.BytesIO(png)).convert("RGBA").resize((SIZE, SIZE))


def _svg_set(folder: Path) -> tuple[dict[str, Any], dict[str, str]]:
    package = json.loads((folder / "icons.json").read_text("utf-8"))
    chars = json.loads((folder / "chars.json").read_text("utf-8"))
    return package, {code.replace("-fe0f", ""): name for code, name in chars.items()}


def build(packages: Path, concepts: dict[str, str], out: Path) -> list[str]:
    """Draw every concept in every style into `out` (npz); returns the filter's log."""
    data = packages / "emojibase-data" / "en" / "data.json"
    entries = [e for e in json.loads(data.read_text("utf-8")) if e.get("group") in OBJECT_GROUPS]
    verdicts = {e["label"]: dropped_by_filter(e) for e in entries}
    log = [f"{label}: {category}" for label, category in verdicts.items() if category]
    kept = {e["label"]: e["hexcode"].lower() for e in entries if not verdicts[e["label"]]}
    unknown = [label for label in concepts if label not in kept]
    if unknown:
        raise ValueError(f"concepts: {unknown} are unknown or filtered; mend the list")
    sets = [_svg_set(packages / "noto"), _svg_set(packages / "twemoji")]
    pixels: list[np.ndarray] = []
    concept: list[int] = []
    style: list[int] = []
    for index, label in enumerate(concepts):
        code = kept[label].replace("-fe0f", "")
        drawn = [_draw_svg(package, chars[code]) for package, chars in sets]
        files = [
            packages / "fluent-emoji-3d" / "assets" / f"{c}.webp" for c in (code, code + "-fe0f")
        ]
        found = next(file for file in files if file.is_file())
        drawn.append(Image.open(found).convert("RGBA").resize((SIZE, SIZE)))
        pixels += [np.asarray(picture) for picture in drawn]
        concept += [index] * len(drawn)
        style += range(len(drawn))
    names = np.array(list(concepts.values()))
    np.savez_compressed(
        out, pixels=np.stack(pixels), concept=np.array(concept), style=np.array(style), names=names
    )
    return log
