"""What each lossy mode costs in likeness and saves in seconds and bytes, on real pictures.

The exact mode and each other paint the same prompts from the same seeds, each in a process of its
own. Likeness is between the pictures; accuracy is that of each mode's pictures to their prompts.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kleinod import catalog
from kleinod.bench import modes
from kleinod.bench.comparison import Progress, spread
from kleinod.bench.likeness import Picture, mean_squared_error, psnr, ssim
from kleinod.bench.plan import Plan
from kleinod.bench.process import Worker
from kleinod.training.icons import Icons
from kleinod.training.scenes import Composer, Scene
from kleinod.training.scoring import NearestIcon, score_singles, single_scenes
from kleinod.weights import files

FIRST_SEED = 1000
# things that the built-in model knows, in its words
_THINGS = ("a fox", "an owl", "a house", "a sailboat", "a pizza", "a rocket", "a tulip", "a guitar")
_LOOKS = ("on a blue background", "flat style, on a yellow background", "3D style")
Score = Callable[[list[Picture]], dict[str, float]]


def quality(
    plan: Plan, num_pictures: int, icons: Path | None, progress: Progress
) -> dict[str, Any]:
    """A report as JSON: one entry for each mode, the exact one first."""
    plan = replace(plan, model=str(catalog.find(plan.model)), dtype=plan.dtype or "bfloat16")
    prompts, score = _judged(icons, num_pictures) if icons else (_prompts(num_pictures), None)
    exact = modes.Mode(modes.EXACT, f"the files' own numbers, in {plan.dtype}", _same, {})
    wanted = [exact, *modes.modes(plan.dtype or "")]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="kleinod-bench-") as name:
        originals: list[Picture] = []
        for index, mode in enumerate(wanted):
            progress("modes", index / len(wanted))
            row, pictures = _run(mode, plan, prompts, Path(name))
            originals = originals or pictures
            if mode is not exact:
                row |= _likeness(originals, pictures)
            row["accuracy"] = score(pictures) if score else None
            rows.append(row)
    progress("modes", 1.0)
    return {"plan": plan.to_json(), "prompts": prompts, "first_seed": FIRST_SEED, "modes": rows}


def _same(model: Path, folder: Path) -> Path:
    return model


def _prompts(count: int) -> list[str]:
    every = [f"{thing}, {look}" for look in _LOOKS for thing in _THINGS]
    return [every[number % len(every)] for number in range(count)]


def _judged(icons: Path, count: int) -> tuple[list[str], Score]:
    """Prompts that were never trained on, and the shares of pictures that show what they say."""
    known = Icons.load(icons)
    scenes = single_scenes(Composer(known, 11), count)
    oracle = NearestIcon(known)

    def score(pictures: list[Picture]) -> dict[str, float]:
        wanted: list[Scene] = [scene for scene, _ in scenes]
        return score_singles(oracle, wanted, pictures)

    return [words for _, words in scenes], score


def _run(
    mode: modes.Mode, plan: Plan, prompts: list[str], temporary: Path
) -> tuple[dict[str, Any], list[Picture]]:
    """Paint every prompt in one mode."""
    changed = mode.plan(plan, temporary)
    pictures, seconds = [], []
    file = temporary / "picture.png"
    with Worker("kleinod") as worker:
        worker.ask("load", plan=changed.to_json())
        worker.ask("paint", prompt=prompts[0])
        for number, prompt in enumerate(prompts):
            fields = {"seed": FIRST_SEED + number, "path": str(file)}
            seconds.append(worker.ask("paint", prompt=prompt, **fields)["total"])
            with Image.open(file) as picture:
                pictures.append(np.asarray(picture.convert("RGB")))
        memory = worker.ask("memory")
    row = {
        "name": mode.name,
        "what": mode.what,
        "seconds": spread(seconds),
        "transformer_bytes": files.num_bytes(Path(changed.model) / "transformer"),
        "memory": memory,
    }
    return row, pictures


def _likeness(originals: list[Picture], pictures: list[Picture]) -> dict[str, Any]:
    errors = [mean_squared_error(a, b) for a, b in zip(originals, pictures, strict=True)]
    likenesses = [ssim(a, b) for a, b in zip(originals, pictures, strict=True)]
    return {
        "psnr": psnr(float(np.mean(errors))),
        "lowest_psnr": psnr(max(errors)),
        "ssim": float(np.mean(likenesses)),
        "lowest_ssim": min(likenesses),
        "num_equal": sum(error == 0 for error in errors),
    }
