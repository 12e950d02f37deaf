"""Remove a concept from the built-in model: python recipes/mini/remove.py fox --anchor cat

Starts from the model that the package carries; needs the icons (README.md) and no checkpoint.
Writes the model without it as a folder, runs/mini/without-fox; judge it by
`kleinod evaluate removal`. Checkpoints lie in runs/mini/removal-fox.
"""

import argparse

import torch
import train

import kleinod
from kleinod.training import distributed
from kleinod.training.distillation import Paths, distillation_loop
from kleinod.training.finetune import trainable, write
from kleinod.training.icons import Icons
from kleinod.training.pool import Pool, Tools
from kleinod.training.removal import Insisting, Removal, RemovalRecipe, twins
from kleinod.training.scenes import Composer, drawn

# text alone, one reference, two
SHARES = (0.45, 0.3, 0.25)


def twin_paths(
    removal: Removal, recipe: RemovalRecipe, plain: Composer, icons: Icons
) -> list[Paths]:
    """Text, one reference, two references: as they are asked, and as the teacher sees them."""
    insisting = Insisting(icons, recipe.seed + 1, removal.concept)
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


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("concept")
    parser.add_argument("--anchor", required=True, help="what stands in its place")
    parser.add_argument("--steps", type=int, default=RemovalRecipe.steps)
    arguments = parser.parse_args()
    concept = arguments.concept
    icons = Icons.load(train.RUN / "icons.npz")
    unknown = [n for n in (concept, arguments.anchor) if n not in icons.names]
    if unknown:
        raise SystemExit(f"error: {unknown[0]} is no concept; see recipes/mini/concepts.txt")
    recipe = RemovalRecipe(steps=arguments.steps, shares=SHARES)
    numbers = (icons.names.index(name) for name in (concept, arguments.anchor))
    plain = Composer(icons, recipe.seed)
    mini = kleinod.load("mini", device="cpu", dtype="float32", residency="all")
    autoencoder = mini.residents.use("autoencoder").to(memory_format=torch.channels_last)
    slug = concept.replace(" ", "-")
    loop = distillation_loop(
        trainable(mini),
        trainable(mini),
        recipe,
        paths=twin_paths(Removal(*numbers, kept=recipe.kept), recipe, plain, icons),
        tools=Tools(plain.rng, autoencoder, mini.tokenizer),
        folder=train.RUN / f"removal-{slug}",
    )
    train.run(loop)
    if loop.rank == 0:
        out = train.RUN / f"without-{slug}"
        name = f"mini without {concept}"
        write(mini, loop.whole_average(), model="mini", folder=out, name=name)
        print(f"{out}: try kleinod generate 'a {concept}' --model {out}")
    distributed.stop()


if __name__ == "__main__":
    main()
