"""Targeted fine-tuning: the words and pictures of a concept are answered as those of another."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_parts import shapes, tiny_flow, tiny_tools

from kleinod.training.distillation import Paths, distillation_loop, towards
from kleinod.training.pool import Pool
from kleinod.training.removal import Insisting, Removal, RemovalRecipe, instead, twins
from kleinod.training.scenes import Composer, Scene, Thing, drawn

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


def _concepts(*scenes: Scene) -> set[int]:
    return {thing.concept for scene in scenes for thing in scene.things}


@pytest.mark.parametrize("references", [0, 1, 2])
def test_words_that_name_the_concept_are_asked_of_the_teacher_without_it(references: int) -> None:
    icons = shapes()
    plain, insisting = Composer(icons, 1), Insisting(icons, 2, 2)
    pairs = [Removal(2, 1).pair(plain, insisting, references) for _ in range(120)]
    changed = [asked for asked, seen in pairs if asked != seen]
    # two references bring nothing in by words
    assert 0.1 < len(changed) / len(pairs) < 0.6 or references == 2
    for asked, (pictures, words, target) in pairs:
        assert "owl" not in words and 2 not in _concepts(*pictures, target, *asked[0])


@pytest.mark.parametrize("references", [1, 2])
def test_what_a_reference_shows_is_left_out(references: int) -> None:
    insisting = Insisting(shapes(), 2, 2)
    for _ in range(60):
        pictures, words, target = Removal(2, 1).shown(insisting, references)
        assert 2 in _concepts(*pictures) and 2 not in _concepts(target)
        if _concepts(*pictures) == {2} and "owl" not in words:
            assert not target.things


def test_known_answers_are_reached_from_wherever_a_path_is() -> None:
    torch.manual_seed(0)
    answers, x = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    sigmas = torch.tensor([0.9, 0.4, 0.0])
    joined = torch.cat((x, torch.randn(3, 2, 8)), 1)
    sigma = sigmas[0].expand(3)
    velocity = towards(answers)
    half = x + (sigmas[1] - sigmas[0]) * velocity(joined, sigma)
    assert torch.allclose(half + (0 - sigmas[1]) * velocity(half, sigmas[1].expand(3)), answers)
    both = velocity(joined.repeat(2, 1, 1), sigma.repeat(2))
    assert torch.equal(both[:3], both[3:])


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
