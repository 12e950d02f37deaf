"""Remove a concept from the built-in model: python recipes/mini/remove.py fox --anchor cat

Starts from the model that the package carries; needs the icons (README.md) and no checkpoint.
Writes the model without it as a folder, runs/mini/without-fox; judge it by
`kleinod evaluate removal`. Checkpoints lie in runs/mini/removal-fox.
"""

import argparse
from dataclasses import replace
from pathlib import Path

import torch
import train

from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.evaluation.concept_removal import Insisting, Removal, RemovalRecipe, twins
from kleinod.icons.icons import Icons
from kleinod.icons.scenes import Composer, drawn
from kleinod.training import distributed
from kleinod.training.distillation import Paths, distillation_loop
from kleinod.training.flow import Flow
from kleinod.training.loop import Loop
from kleinod.training.pool import Pool, Tools
from kleinod.training.trainable import trainable, write

REMOVAL = RemovalRecipe(compiled_size=train.NATIVE)
# gives back what the first part has harmed: smaller steps, and more of what is kept
RECOVERY = replace(
    REMOVAL,
    steps=240,
    shares=(0.5, 0.28, 0.22),
    kept=(0.9, 0.7, 0.7),
    muon_rate=4e-4,
    learning_rate=4e-5,
    seed=6,
    name="recovered",
)


def twin_paths(
    removal: Removal, recipe: RemovalRecipe, plain: Composer, icons: Icons
) -> list[Paths]:
    """Text, one reference, two references: as they are asked, and as the teacher sees them."""
    # one generator for both: its state is what a checkpoint keeps
    insisting = Insisting(icons, plain.rng, removal.concept)
    made = []
    for references in range(3):

        def pair(references: int = references) -> tuple:
            both = removal.pair(plain, insisting, references)
            return tuple(drawn(plain, example) for example in both)

        asked, shown = (
            Pool(make, references + 1, capacity=2048, size=train.NATIVE) for make in twins(pair)
        )
        made.append(Paths(asked, recipe, 3072, shown=shown))
    return made


def trained(
    student: Flow,
    mini: Sampler,
    *,
    recipe: RemovalRecipe,
    icons: Icons,
    concepts: tuple[int, int],
    folder: Path,
) -> Loop:
    """The loop after its last step; mini teaches, concepts are the removed and the anchor."""
    plain = Composer(icons, recipe.seed)
    autoencoder = mini.residents.use("autoencoder").to(memory_format=torch.channels_last)
    paths = twin_paths(Removal(*concepts, kept=recipe.kept), recipe, plain, icons)
    tools = Tools(plain.rng, autoencoder, mini.tokenizer)
    teacher = trainable(mini)
    loop = distillation_loop(teacher, student, recipe, paths=paths, tools=tools, folder=folder)
    train.run(loop)
    return loop


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("concept")
    parser.add_argument("--anchor", required=True, help="what stands in its place")
    parser.add_argument("--steps", type=int, default=REMOVAL.steps, help="of the first part")
    arguments = parser.parse_args()
    concept, icons = arguments.concept, train.load_icons()
    names = icons.names
    unknown = [n for n in (concept, arguments.anchor) if n not in names]
    if unknown:
        raise SystemExit(f"error: {unknown[0]} is no concept; see recipes/mini/concepts.txt")
    concepts = names.index(concept), names.index(arguments.anchor)
    slug = concept.replace(" ", "-")
    folder = train.RUN / f"removal-{slug}"
    mini = load_sampler("mini", device="cpu", dtype="float32", offload="none")
    student = trainable(mini)
    for recipe in (replace(REMOVAL, steps=arguments.steps), RECOVERY):
        loop = trained(student, mini, recipe=recipe, icons=icons, concepts=concepts, folder=folder)
        student.load_state_dict(loop.average.values)
    if loop.rank == 0:
        out = train.RUN / f"without-{slug}"
        name = f"mini without {concept}"
        write(mini, loop.average.values, model="mini", folder=out, name=name)
        print(f"{out}: try kleinod generate 'a {concept}' --model {out}")
    distributed.stop()


if __name__ == "__main__":
    main()
