"""The trainer on synthetic icons: scenes mean what they say, stages learn, resume and export."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from training_parts import RECIPE, TINY, shapes, tiny_flow, tiny_pools, tiny_tools

from kleinod.catalog import ModelInfo
from kleinod.diffusion.loading import load_sampler
from kleinod.icons.captions import counted, with_article
from kleinod.icons.edits import Editor, subject_and_detail
from kleinod.icons.held_out_rules import edit_is_held_out, pair_is_held_out
from kleinod.icons.icons import STYLES, Icons, dropped_by_filter
from kleinod.icons.layouts import BACKGROUNDS, PAIRS
from kleinod.icons.scenes import Composer, Scene, Thing, held_out
from kleinod.training import checkpoints
from kleinod.training.autoencoder_training import AutoencoderRecipe, train_autoencoder
from kleinod.training.distillation import (
    DistillationRecipe,
    Paths,
    distillation_loop,
    teacher_sigmas,
)
from kleinod.training.export import export
from kleinod.training.flow_stage import flow_loop, initialise
from kleinod.training.loop import Loop
from kleinod.training.pool import Tools
from kleinod.training.sample_images import euler


@pytest.fixture(scope="module")
def icons() -> Icons:
    return shapes()


@pytest.fixture
def composer(icons: Icons) -> Composer:
    return Composer(icons, seed=1)


def test_filter_names_its_category() -> None:
    assert dropped_by_filter({"label": "wine glass", "tags": ["bar"]}) == "alcohol"
    assert dropped_by_filter({"label": "teapot", "tags": ["drink"]}) is None


@pytest.mark.parametrize(
    ("words", "expected"),
    [("owl", "an owl"), ("unicorn", "a unicorn"), ("hourglass", "an hourglass"), ("fire", "fire")],
)
def test_article_follows_the_sound(words: str, expected: str) -> None:
    assert with_article(words) == expected


@pytest.mark.parametrize(
    ("words", "number", "expected"),
    [
        ("fox", 2, "two foxes"),
        ("butterfly", 3, "three butterflies"),
        ("donkey", 4, "four donkeys"),
        ("mouse", 2, "two mice"),
        ("owl", 1, "an owl"),
    ],
)
def test_counted_things_are_plural(words: str, number: int, expected: str) -> None:
    assert counted(words, number) == expected


def test_group_shows_as_many_as_it_says(composer: Composer) -> None:
    numbers = {"two": 2, "three": 3, "four": 4}
    for _ in range(20):
        scene, words = composer.group()
        assert len(scene.things) == numbers[words.split()[0]]
        assert len({thing.concept for thing in scene.things}) == 1


def test_canvas_of_another_size_keeps_the_layout(composer: Composer) -> None:
    scene = Scene((Thing(1, (32.0, 64.0), 60.0),), STYLES.index("flat"), "teal", (256, 128))
    picture = composer.render(scene)
    assert picture.shape == (128, 256, 3)
    assert tuple(picture[64, 64]) == (140, 30, 140)
    assert tuple(picture[64, 128]) == BACKGROUNDS["teal"]


def test_tint_changes_the_hue_alone(composer: Composer) -> None:
    thing = Thing(1, tint="green")
    plain = composer.render(Scene((replace(thing, tint=None),), 1, "white"))
    tinted = composer.render(Scene((thing,), 1, "white"))
    red, green, blue = (int(v) for v in tinted[64, 64])
    assert green > red and green > blue
    assert np.array_equal(tinted[:8], plain[:8])


def test_picture_shows_what_the_scene_says(composer: Composer) -> None:
    picture = composer.render(Scene((Thing(1),), STYLES.index("flat"), "teal"))
    assert tuple(picture[2, 2]) == BACKGROUNDS["teal"]
    assert tuple(picture[64, 64]) == (140, 30, 140)


def test_held_out_combinations_are_never_composed(composer: Composer) -> None:
    scenes = [composer.single()[0] for _ in range(400)]
    assert not any(held_out(scene) for scene in scenes)


def test_held_out_pairs_and_edits_are_never_composed(composer: Composer) -> None:
    editor = Editor(composer)
    for _ in range(200):
        scene, words = composer.pair()
        if " and " not in words:
            relation = next(r for r in PAIRS if f" {r} " in words)
            numbers = (thing.concept for thing in scene.things)
            assert not pair_is_held_out(*numbers, relation)
        (before,), words, after = editor.one()
        if "background" in words:
            numbers = subject_and_detail("background", before, after)
            assert not edit_is_held_out("background", *numbers)


def test_edits_change_what_they_name(composer: Composer) -> None:
    editor = Editor(composer)
    for _ in range(60):
        references, words, target = editor.one()
        if "background" in words:
            assert target.background in words
            assert replace(target, background=references[0].background) == references[0]
        assert target != references[0]


def test_checkpoint_returns_what_was_saved(tmp_path: Path) -> None:
    state = {"a": [torch.arange(3), {1: torch.ones(2), "n": 0.5}], "step": 7, "name": "x"}
    checkpoints.save(tmp_path / "c.safetensors", state)
    loaded = checkpoints.load(tmp_path / "c.safetensors")
    assert loaded is not None and loaded["step"] == 7 and loaded["a"][1]["n"] == 0.5
    assert torch.equal(loaded["a"][0], torch.arange(3))
    assert torch.equal(loaded["a"][1][1], torch.ones(2))
    assert checkpoints.load(tmp_path / "other") is None


def test_autoencoder_learns_and_goes_on(composer: Composer, tmp_path: Path) -> None:
    recipe = AutoencoderRecipe(steps=1, batch=4, seed=3, statistics=64)
    first = train_autoencoder(TINY, recipe, composer, tmp_path)
    again = train_autoencoder(TINY, recipe, composer, tmp_path)
    for mine, theirs in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert first.bn.running_var is not None and (first.bn.running_var != 1).all()


@pytest.fixture
def tools(composer: Composer, tmp_path: Path) -> Tools:
    return tiny_tools(composer, tmp_path)


@pytest.fixture
def trainer(composer: Composer, tools: Tools, tmp_path: Path) -> Loop:
    torch.manual_seed(0)
    flow = tiny_flow()
    initialise(flow)
    return flow_loop(flow, RECIPE, pools=tiny_pools(composer), tools=tools, folder=tmp_path)


@pytest.mark.slow
def test_flow_learns_and_saves(trainer: Loop, tmp_path: Path) -> None:
    losses: list[float] = []
    loss_of = trainer.objective.loss

    def recorded(kind: int) -> torch.Tensor:
        loss = loss_of(kind)
        losses.append(loss.item())
        return loss

    trainer.objective.loss = recorded  # type: ignore[method-assign]
    trainer.run()
    assert np.mean(losses[-6:]) < 0.97 * np.mean(losses[:6])
    state = checkpoints.load(tmp_path / "flow.safetensors")
    assert state is not None and state["step"] == 40
    for name, value in trainer.module.state_dict().items():
        assert torch.equal(state["model"][name], value)


def test_teachers_sigmas_contain_the_students() -> None:
    student, teacher = teacher_sigmas(DistillationRecipe(), 64)
    assert len(student) == 5 and len(teacher) == 9
    assert torch.allclose(teacher[::2], student, atol=1e-6)


@pytest.mark.parametrize("pictures", [0, 1])
def test_own_chords_start_where_the_student_came_to(
    composer: Composer, tools: Tools, pictures: int
) -> None:
    teacher, student = tiny_flow(), tiny_flow()
    for flow in (teacher, student):
        for parameter in flow.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    pool, empty = tiny_pools(composer)[pictures], tools.tokenizer.encode([""])
    pool.fill(4, tools)
    recipe = DistillationRecipe(substeps=1, guidance=1.0)
    paths = Paths(pool, recipe, 8)
    paths.refill(2, teacher, empty)
    paths.refill(2, teacher, empty, student=teacher)
    paths.refill(2, teacher, empty, student=student)
    starts, ends = (torch.stack(x).float() for x in list(zip(*paths.rows, strict=True))[:2])
    assert starts.shape == ends.shape == (6, 4, 64, 128)
    goes_on = [torch.allclose(s[1:], e[:-1]) for s, e in zip(starts, ends, strict=True)]
    assert goes_on == [True] * 4 + [False] * 2
    own = torch.stack([row[0] for row in paths.rows[4:]]).float()
    words = tuple(torch.stack([row[i] for row in paths.rows[4:]]) for i in (3, 4))
    references = torch.stack([row[2] for row in paths.rows[4:]]).float()
    alone = euler(
        *(student, own[:, 0], paths.student, words),
        references=references,
        positions=paths.positions,
        guidance=1.0,
    )
    assert torch.allclose(own[:, 1], alone[0], atol=0.1)  # bfloat16 noise


@pytest.mark.slow
def test_student_comes_nearer_to_the_teachers_path(
    composer: Composer, tools: Tools, tmp_path: Path
) -> None:
    teacher, student = tiny_flow(), tiny_flow()
    for parameter in teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    student.load_state_dict(teacher.state_dict())
    recipe = DistillationRecipe(
        steps=20,
        batch=8,
        muon_rate=5e-3,
        first_paths=48,
        first_examples=16,
        refill_every=20,
        shares=(0.8, 0.14, 0.06),
    )
    paths = [Paths(pool, recipe, 64) for pool in tiny_pools(composer)]
    run = distillation_loop(teacher, student, recipe, paths=paths, tools=tools, folder=tmp_path)
    losses: list[float] = []
    loss_of = run.objective.loss

    def recorded(kind: int) -> torch.Tensor:
        loss = loss_of(kind)
        losses.append(loss.item())
        return loss

    run.objective.loss = recorded  # type: ignore[method-assign]
    run.run()
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_exported_folder_loads_as_the_same_model(
    trainer: Loop, tools: Tools, tmp_path: Path
) -> None:

    info = ModelInfo("tiny", True, 64, 2, text_layers=(1, 2, 3), max_text_tokens=32)
    flow = trainer.module.bfloat16().float()
    export(flow, tools.autoencoder, tmp_path, info)
    pipeline = load_sampler(tmp_path, device="cpu", dtype=torch.float32)
    assert pipeline.info == info
    expected = flow.transformer.state_dict()
    loaded = pipeline.residents.use("transformer").state_dict()
    assert torch.equal(loaded["img_in.weight"], expected["img_in.weight"])
    result = pipeline.generate("a circle", seed=1)
    assert result.images[0].image.size == (64, 64)
