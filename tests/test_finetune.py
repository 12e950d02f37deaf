"""`kleinod train`: a folder of pictures and captions becomes a model; mistakes are one line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kleinod.assembly import load_sampler
from kleinod.cli.app import app
from kleinod.errors import InputError
from kleinod.training.finetune import read_recipe
from kleinod.training.folder import fitting_size, folder_pools, read_folder

DOCS = Path(__file__).parent.parent / "docs" / "training.md"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three pictures of two shapes, one of them an edit of a reference."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index, size in enumerate(((130, 140), (128, 128), (200, 100))):
        Image.new("RGB", size, (80 * index, 40, 200)).save(folder / f"p{index}.png")
        (folder / f"p{index}.txt").write_text(f"colour number {index}\n")
    Image.new("RGB", (64, 64), "red").save(folder / "p1.ref1.png")
    return folder


def test_folder_is_read_with_captions_and_references(pictures: Path) -> None:
    items = read_folder(pictures)
    assert [item.words for item in items] == [f"colour number {i}" for i in range(3)]
    assert [len(item.references) for item in items] == [0, 1, 0]


def test_pictures_of_one_size_and_task_make_a_pool(pictures: Path) -> None:
    pools, shares = folder_pools(read_folder(pictures), np.random.default_rng(1), 128 * 128)
    found = {(pool.size, pool.pictures) for pool in pools}
    assert found == {((112, 128), 1), ((128, 128), 2), ((176, 80), 1)}
    assert shares == pytest.approx((1 / 3,) * 3)
    drawn, words = next(pool for pool in pools if pool.pictures == 2).make()
    assert words == "colour number 1"
    assert tuple(drawn[0][5, 5]) == (80, 40, 200) and tuple(drawn[1][5, 5]) == (255, 0, 0)


@pytest.mark.parametrize(
    ("size", "most", "expected"),
    [
        ((1024, 1024), 128 * 128, (128, 128)),
        ((100, 100), 10**6, (96, 96)),
        ((2000, 500), 256 * 256, (512, 128)),
    ],
)
def test_size_keeps_shape_and_limit(
    size: tuple[int, int], most: int, expected: tuple[int, int]
) -> None:
    assert fitting_size(*size, most) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data = 'd'\noutput = 'o'\nstep = 5", "step is unknown; did you mean steps?"),
        ("output = 'o'", "data is missing"),
        ("data = 'd'\noutput = 'o'\nsteps = 'many'", "steps: 'many' is no int"),
        ("data = 'd'\noutput = 'o'\ntrains = 'some'", "give transformer or all"),
        ("data = 'd'\noutput = 'o'\nbatch = -1", "batch: -1 is under 0"),
        ("data = ", "is no TOML"),
    ],
)
def test_mistake_in_the_configuration_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_recipe(tmp_path / "c.toml")


def test_picture_without_a_caption_is_named(pictures: Path) -> None:
    (pictures / "p2.txt").unlink()
    with pytest.raises(InputError, match=r"1 of 3 pictures .* p2\.png for one"):
        read_folder(pictures)


def test_documented_configuration_trains_mini(pictures: Path) -> None:
    found = re.search(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    text = (
        found[1]
        .replace("steps = 500", "steps = 2\nmax_pixels = 16384")
        .replace("batch = 4", "batch = 2")
    )
    config = pictures.parent / "config.toml"
    config.write_text(text)
    done = CliRunner().invoke(app, ["train", str(config)])
    assert done.exit_code == 0, done.output
    folder = pictures.parent / "my-model"
    assert done.output.splitlines()[-1] == str(folder)
    trained, plain = load_sampler(folder, device="cpu"), load_sampler("mini", device="cpu")
    weights = [p.residents.use("transformer").img_in.weight.float() for p in (trained, plain)]
    assert not torch.equal(*weights)
    torch.testing.assert_close(*weights, atol=0.05, rtol=0.05)
    assert trained.generate("a fox", seed=1).images[0].image.size == (128, 128)
