"""Score a trained model: python recipes/mini/score.py MODEL_FOLDER [SHEET.png]

Held-out prompts of one object, two objects with positions; prints shares and writes a sheet of the
first 48 single objects.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image
from train import RUN, composer

import kleinod
from kleinod.pipeline import Pipeline
from kleinod.training.icons import Icons
from kleinod.training.layouts import PAIRS
from kleinod.training.scenes import Composer, Scene, Thing
from kleinod.training.scoring import NearestIcon, score_pairs, score_singles, single_scenes

SINGLES, COUPLES, BATCH = 120, 60, 12


def pair_scenes(scenes: Composer, count: int) -> list[tuple[Scene, str]]:
    """Two objects exactly in place, in the default style on white."""
    made = []
    for _ in range(count):
        first, second = scenes.concepts(2)
        relation = scenes.choice(list(PAIRS))
        things = tuple(
            Thing(c, p, 60.0) for c, p in zip((first, second), PAIRS[relation], strict=True)
        )
        names = [scenes.with_name(c) for c in (first, second)]
        made.append((Scene(things), f"{names[0]} {relation} {names[1]}"))
    return made


def painted(pipeline: Pipeline, prompts: list[str]) -> list[np.ndarray]:
    """Pictures of prompts, the seeds counting up from 1000."""
    pictures: list[np.ndarray] = []
    for start in range(0, len(prompts), BATCH):
        part = tuple(prompts[start : start + BATCH])
        result = pipeline.generate(part, seed=1000 + start)
        pictures += [np.asarray(image.image) for image in result.images]
    return pictures


def main(folder: Path, sheet: Path | None) -> None:
    """Paint, score, print."""
    scenes, oracle = composer(11), NearestIcon(Icons.load(RUN / "icons.npz"))
    pipeline = kleinod.load(folder)
    singles, couples = single_scenes(scenes, SINGLES), pair_scenes(scenes, COUPLES)
    pictures = painted(pipeline, [words for _, words in singles])
    pairs = painted(pipeline, [words for _, words in couples])
    real = [
        replace(s, things=(scenes.thing(s.things[0].concept, (64, 64), 104.0),)) for s, _ in singles
    ]
    scores = {
        "singles": score_singles(oracle, [s for s, _ in singles], pictures),
        "pairs": score_pairs(oracle, [s for s, _ in couples], pairs),
        "oracle on real scenes": score_singles(
            oracle, [s for s, _ in singles], [scenes.render(s) for s in real]
        ),
    }
    print(json.dumps(scores, indent=2))
    if sheet:
        whole = Image.new("RGB", (12 * 128, 5 * 128))
        for index, picture in enumerate([*pictures[:48], *pairs[:12]]):
            whole.paste(Image.fromarray(picture), (index % 12 * 128, index // 12 * 128))
        whole.save(sheet)
        print("\n".join(words for _, words in [*singles[:48], *couples[:12]]))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
