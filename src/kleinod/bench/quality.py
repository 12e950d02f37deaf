"""What each lossy mode costs in likeness and saves in seconds and bytes, on real pictures.

The exact mode and each other paint the same prompts from the same seeds, each in a process of its
own. Likeness is between the pictures; accuracy is that of each mode's pictures to their prompts.
"""

import tempfile
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
from kleinod.evaluation import case_set
from kleinod.evaluation.case_set import Case
from kleinod.evaluation.judge import Oracle
from kleinod.evaluation.scoring import mark
from kleinod.weights import files

FIRST_SEED = 1000


def quality(plan: Plan, num_pictures: int, progress: Progress) -> dict[str, Any]:
    """A report as JSON: one entry for each mode, the exact one first."""
    plan = replace(plan, model=str(catalog.find(plan.model)), dtype=plan.dtype or "bfloat16")
    cases, oracle = _cases(num_pictures), Oracle.load()
    prompts = [case.prompt for case in cases]
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
            row["accuracy"] = _accuracy(oracle, cases, pictures)
            rows.append(row)
    progress("modes", 1.0)
    return {"plan": plan.to_json(), "prompts": prompts, "first_seed": FIRST_SEED, "modes": rows}


def _same(model: Path, folder: Path) -> Path:
    return model


def _cases(count: int) -> list[Case]:
    """Stored prompts of one object, which training left out; over again if there are too few."""
    singles = [case for case in case_set.load() if case.task == "single"]
    return [singles[number % len(singles)] for number in range(count)]


def _accuracy(oracle: Oracle, cases: list[Case], pictures: list[Picture]) -> dict[str, float]:
    """Shares of pictures that show the right object, style and background, by the oracle."""
    marks = [mark(oracle, case, p) for case, p in zip(cases, pictures, strict=True)]
    aspects = ("concept", "style", "background")
    return {name: float(np.mean([m.aspects[name] for m in marks])) for name in aspects}


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
