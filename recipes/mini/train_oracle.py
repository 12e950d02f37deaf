"""Train the oracle and store the evaluation's prompts: python recipes/mini/train_oracle.py [STEPS]

With 0 steps it keeps the trained oracle, and only draws the prompts and measures again. Needs
runs/mini/icons.npz and the autoencoder of the model in the package. Writes the folder
src/kleinod/evaluation/oracle, which is shipped; about seven minutes of one core.
"""

import json
import sys
import time
from dataclasses import replace

import numpy as np
import torch
from safetensors.torch import save_file
from train import RUN

from kleinod.diffusion.loading import load_sampler
from kleinod.evaluation import case_generation, case_set
from kleinod.evaluation.case_set import FOLDER, Case
from kleinod.evaluation.evaluator import frechet, moments
from kleinod.evaluation.judge import WEIGHTS, Oracle
from kleinod.evaluation.judge_examples import Examples
from kleinod.evaluation.judge_training import OracleRecipe, train_oracle
from kleinod.evaluation.scoring import mark
from kleinod.icons.icons import STYLES, Icons
from kleinod.icons.layouts import BACKGROUNDS
from kleinod.icons.scenes import Composer, Scene
from kleinod.models.autoencoder import Autoencoder

CASES_SEED, CEILING_SEED = 41, 43
COMPOSED = 1500


@torch.inference_mode()
def through(autoencoder: Autoencoder, picture: np.ndarray) -> np.ndarray:
    """A picture encoded and decoded."""
    pixels = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
    made = autoencoder.decode(autoencoder.encode(pixels))[0].clamp(-1, 1)
    return ((made + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()


def ceiling(oracle: Oracle, composer: Composer, autoencoder: Autoencoder) -> dict[str, float]:
    """What it says of perfect scenes, as they are and through the autoencoder, in %."""
    cases = case_generation.draw(composer)
    right: dict[str, list[bool]] = {}
    for case in cases:
        perfect = composer.render(case.target)
        for name, picture in ((" plain", perfect), ("", through(autoencoder, perfect))):
            verdict = mark(oracle, case, picture)
            right.setdefault(case.task + name, []).append(verdict.is_right)
            if case.task == "single":
                for aspect in ("style", "clear"):
                    right.setdefault(aspect + name, []).append(verdict.aspects[aspect] == 1)
    return {name: 100 * float(np.mean(values)) for name, values in right.items()}


def store_statistics(oracle: Oracle, composer: Composer, cases: list[Case]) -> float:
    """Moments of composed singles with the jitter of training; the distance of the cases' own."""
    pictures = []
    for _ in range(COMPOSED):
        (concept,) = composer.concepts(1)
        style = int(composer.rng.integers(len(STYLES)))
        ground = composer.choice(list(BACKGROUNDS))
        scene = Scene((composer.thing(concept, (64, 64), 104.0),), style, ground)
        pictures.append(composer.render(scene))
    mean, covariance = moments(oracle.features(pictures))
    stored = {"mean": mean.float(), "covariance": covariance.float()}
    save_file(stored, FOLDER / "statistics.safetensors")
    own = [composer.render(case.target) for case in cases if case.task == "single"]
    return frechet(oracle.features(own), mean, covariance)


def train(icons: Icons, autoencoder: Autoencoder, steps: int) -> None:
    """Train the oracle into the package."""
    start = time.time()

    def report(step: int, loss: float, share: float) -> None:
        minutes = (time.time() - start) / 60
        print(f"step {step} loss {loss:.3f} right {share:.1%} {minutes:.1f} min", flush=True)

    examples = Examples(icons, autoencoder)
    oracle = train_oracle(examples, replace(OracleRecipe(), steps=steps), report=report)
    oracle.save(WEIGHTS)


def main(steps: int) -> None:
    """Train (not with 0 steps), store the cases, and print what the oracle is worth."""
    icons = Icons.load(RUN / "icons.npz")
    autoencoder = load_sampler("mini").residents.use("autoencoder").float()
    if steps:
        train(icons, autoencoder, steps)
    oracle = Oracle.load()
    cases = case_generation.draw(Composer(icons, CASES_SEED))
    case_set.save(cases, FOLDER)
    facts = ceiling(oracle, Composer(icons, CEILING_SEED), autoencoder)
    facts["frechet of composed"] = store_statistics(oracle, Composer(icons, CEILING_SEED), cases)
    (FOLDER / "ceiling.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else OracleRecipe.steps)
