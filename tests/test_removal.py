"""Targeted fine-tuning: the words and pictures of a concept are answered as those of another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_parts import shapes, tiny_flow, tiny_tools

from kleinod.evaluation.concept_removal import Insisting, Removal, RemovalRecipe, instead, twins
from kleinod.icons.scenes import Composer, Scene, Thing, drawn
from kleinod.training.distillation import DistillationObjective, Paths, distillation_loop
from kleinod.training.loop import Loop
from kleinod.training.pool import Pool

NAMES = ("circle", "square", "owl")


def test_another_concept_stands_in_words_and_pictures() -> None:
    scene = Scene((Thing(2), Thing(0)), 1, "teal")
    example = (scene,), "replace the owl with an owl and two owls", scene
    references, words, target = instead(example, NAMES, 2, 1)
    assert words == "replace the square with a square and two squares"
    assert [t.concept for t in references[0].things] == [1, 0] == [t.concept for t in target.things]


def test_words_of_other_concepts_are_left() -> None:
    scene = Scene((Thing(0),), 1, "teal")
    example = (), "an owl", scene
    assert instead(example, NAMES, 2, 1) == example


def test_half_of_the_pairs_show_the_concept() -> None:
    icons = shapes()
    plain, insisting = Composer(icons, 1), Insisting(icons, 2, 2)
    pairs = [Removal(2, 1).pair(plain, insisting, kind) for kind in (0, 1, 2) for _ in range(60)]
    changed = [asked for asked, shown in pairs if asked != shown]
    assert 0.2 < len(changed) / len(pairs) < 0.7
    for _, (references, words, target) in pairs:
        assert "owl" not in words
        assert all(t.concept != 2 for s in (*references, target) for t in s.things)


def test_only_the_edits_of_what_is_removed_are_mostly_those_that_keep_the_object() -> None:
    icons = shapes()
    plain, insisting = Composer(icons, 1), Insisting(icons, 2, 2)

    def mirrored(kept: float) -> float:
        """The share of examples that ask for a mirrored object."""
        removal = Removal(2, 1, kept=(kept, kept, kept))
        asked = [removal.pair(plain, insisting, 1)[0] for _ in range(300)]
        return sum("mirror" in words or "flip" in words for _, words, _ in asked) / len(asked)

    # 3 and 1 of 16 kinds
    assert mirrored(0.0) > 0.12 > mirrored(1.0)


def test_examples_are_renewed_and_twins_stay_together(tmp_path: Path) -> None:
    icons = shapes()
    plain = Composer(icons, 1)
    numbers = iter(range(1000))

    def pair() -> tuple:
        number = next(numbers)
        scene = Scene((Thing(number % 2),), number % 3, "teal")
        return tuple(drawn(plain, ((), f"{word} {number}", scene)) for word in ("asked", "shown"))

    asked, shown = (Pool(make, 1, capacity=8, size=(128, 128)) for make in twins(pair))
    recipe = RemovalRecipe(shares=(1.0,), first_paths=4, first_examples=6, fresh=4, refill_every=2)
    tools = tiny_tools(plain, tmp_path)
    paths = [Paths(asked, recipe, 64, shown=shown)]
    objective = DistillationObjective(
        tiny_flow(), tiny_flow(), recipe=recipe, paths=paths, tools=tools
    )
    objective.prepare()
    objective.refresh(0, 1)
    assert (asked.count, asked.next) == (6, 6)
    objective.refresh(0, 2)
    assert (asked.count, asked.next) == (shown.count, shown.next) == (8, 2)
    rows = torch.arange(8)
    for pool, word in ((asked, "asked"), (shown, "shown")):
        ids, _ = tools.tokenizer.encode([f"{word} {n}" for n in (8, 9, 2, 3, 4, 5, 6, 7)])
        assert torch.equal(pool.at(rows)[1], ids)


def _removal_loop(steps: int, folder: Path) -> Loop:
    """A tiny one that renews its examples at every step, reporting at every second."""
    torch.manual_seed(0)
    icons = shapes()
    plain = Composer(icons, 1)
    insisting, removal = Insisting(icons, plain.rng, 2), Removal(2, 1)

    def pair() -> tuple:
        return tuple(drawn(plain, example) for example in removal.pair(plain, insisting, 1))

    asked, shown = (Pool(make, 2, capacity=8, size=(128, 128)) for make in twins(pair))
    recipe = RemovalRecipe(
        steps=steps, batch=4, warmup=1, decay_from=0.99, report_every=2, shares=(1.0,)
    )
    recipe = replace(recipe, first_paths=4, first_examples=4, fresh=2, refill_every=1)
    return distillation_loop(
        tiny_flow(),
        tiny_flow(),
        recipe,
        paths=[Paths(asked, recipe, 96, shown=shown)],
        tools=tiny_tools(plain, folder),
        folder=folder,
    )


def test_removal_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    whole, first = (_removal_loop(steps, tmp_path / name) for steps, name in ((4, "a"), (2, "b")))
    whole.run()
    first.run()
    second = _removal_loop(4, tmp_path / "b")
    second.run()
    for name, value in whole.module.state_dict().items():
        assert torch.equal(value, second.module.state_dict()[name]), name


@pytest.mark.slow
def test_student_answers_the_concept_as_the_anchor(tmp_path: Path) -> None:
    torch.manual_seed(0)
    icons = shapes()
    plain = Composer(icons, 1)
    tools = tiny_tools(plain, tmp_path)
    scene = Scene((Thing(2),), 1, "teal")

    def pair() -> tuple:
        both = ((), "an owl", scene), ((), "a square", scene)
        return tuple(drawn(plain, example) for example in both)

    asked, shown = (Pool(make, 1, capacity=32, size=(128, 128)) for make in twins(pair))
    recipe = RemovalRecipe(
        steps=60, batch=8, first_paths=48, first_examples=16, muon_rate=2e-3, warmup=1
    )
    teacher, student = tiny_flow(), tiny_flow()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    student.load_state_dict(teacher.state_dict())
    paths = [Paths(asked, recipe, 64, shown=shown)]
    loop = distillation_loop(
        teacher, student, replace(recipe, shares=(1.0,)), paths=paths, tools=tools, folder=tmp_path
    )
    loop.objective.prepare()
    before = sum(loop.objective.loss(0).item() for _ in range(4))
    loop.run()
    after = sum(loop.objective.loss(0).item() for _ in range(4))
    assert after < 0.5 * before  # 0.18 seen
