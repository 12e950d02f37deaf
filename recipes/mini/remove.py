"""Remove a concept from the built-in model: python recipes/mini/remove.py fox --anchor cat

Writes the model without it as a folder, runs/mini/without-fox; judge it by
`kleinod evaluate removal`. Checkpoints lie in runs/mini/removal-fox.
"""

import argparse
from dataclasses import replace

import train

from kleinod.training import distributed
from kleinod.training.distillation import Paths, distillation_loop
from kleinod.training.flow import Flow
from kleinod.training.icons import Icons
from kleinod.training.pool import Pool
from kleinod.training.removal import Insisting, Removal, RemovalRecipe, twins
from kleinod.training.scenes import Composer, drawn


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
            Pool(make, references + 1, capacity=1024, size=train.NATIVE) for make in twins(pair)
        )
        made.append(Paths(asked, recipe, 1024, shown=shown))
    return made


def shipped() -> Flow:
    """The distilled model that the package carries."""
    return train.averaged_flow("distilled.safetensors")


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
    removal = Removal(*(icons.names.index(n) for n in (concept, arguments.anchor)))
    recipe = RemovalRecipe(steps=arguments.steps, shares=(0.5, 0.3, 0.2))
    plain = Composer(icons, recipe.seed)
    slug = concept.replace(" ", "-")
    loop = distillation_loop(
        shipped(),
        shipped(),
        recipe,
        paths=twin_paths(removal, recipe, plain, icons),
        tools=train.tools(plain),
        folder=train.RUN / f"removal-{slug}",
    )
    loop.run()
    if loop.rank == 0:
        out = train.RUN / f"without-{slug}"
        stated = replace(train.DISTILLED, name=f"mini without {concept}")
        train.export_model(f"removal-{slug}/removed.safetensors", out, stated)
        print(f"{out}: try kleinod generate 'a {concept}' --model {out}")
    distributed.stop()


if __name__ == "__main__":
    main()
