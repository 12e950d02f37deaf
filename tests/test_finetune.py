"""`kleinod train`: a folder of pictures and captions becomes a model; mistakes are one line."""

import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from kleinod.assembly import load_sampler
from kleinod.cli.app import app
from kleinod.errors import InputError
from kleinod.training.finetune import read_recipe

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
