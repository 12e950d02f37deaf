"""Requests are settled early, stages are timed, batches equal single pictures, cancelling works."""

from pathlib import Path

import pytest
import tiny
import torch
from PIL import Image

from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.errors import InputError, NumericalError
from kleinod.request import ImageRequest

SMALL = {"width": 64, "height": 64, "num_inference_steps": 2}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    folder = tiny.saved(tmp_path_factory.mktemp("klein"))
    return load_sampler(folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Sampler:
    """A model with its own kleinod.json: 64 pixels, three steps, short prompts."""
    folder: Path = tiny.saved(tmp_path_factory.mktemp("small"))
    text = '{"default_size": 64, "num_inference_steps": 3, "max_text_tokens": 40, "name": "mini"}'
    (folder / "kleinod.json").write_text(text)
    return load_sampler(folder, device="cpu")


def test_settled_fills_in_the_defaults(pipeline: Sampler) -> None:
    settled = pipeline.resolve(ImageRequest("a"))
    assert (settled.width, settled.height) == (1024, 1024)
    assert (settled.num_inference_steps, settled.guidance_scale) == (4, 1.0)
    assert settled.prompts == ("a",) and isinstance(settled.seed, int)
    assert pipeline.resolve(settled) == settled


def test_kleinod_json_sets_the_defaults(small: Sampler) -> None:
    settled = small.resolve(ImageRequest("a"))
    assert (settled.width, settled.height, settled.num_inference_steps) == (64, 64, 3)
    assert small.dtype == torch.float32
    assert small.tokenizer.encode(["a"])[0].shape == (1, 40)
    assert small.generate("a").images[0].image.size == (64, 64)


@pytest.mark.parametrize(
    ("size", "expected"), [((333, 517), (320, 512)), ((2000, 1000), (1440, 720))]
)
def test_the_first_reference_gives_the_size(
    pipeline: Sampler, size: tuple[int, int], expected: tuple[int, int]
) -> None:
    request = ImageRequest(
        "a", reference_images=(Image.new("RGB", size), Image.new("RGB", (64, 64)))
    )
    settled = pipeline.resolve(request)
    assert (settled.width, settled.height) == expected


def test_a_small_model_takes_small_references(small: Sampler) -> None:
    settled = small.resolve(ImageRequest("a", reference_images=(Image.new("RGB", (800, 200)),)))
    assert (settled.width, settled.height) == (128, 64)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 100}, "width: 100 is not a multiple of 16; the nearest is 96"),
        ({"guidance_scale": 3.0}, "guidance_scale: 3.0 on a distilled model"),
        ({"reference_images": ("/no/such.png",)}, "reference_images: cannot read /no/such.png"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0"),
    ],
)
def test_a_bad_request_fails_before_any_work(
    pipeline: Sampler, fields: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.resolve(ImageRequest("a", **fields))


def test_timings_name_every_stage(pipeline: Sampler) -> None:
    timings = pipeline.generate("stage", **SMALL).timings
    stages = ["text_seconds", "encode_seconds", "denoise_seconds", "decode_seconds"]
    assert timings.keys() == {*stages, "total_seconds"}
    assert all(timings[stage] >= 0 for stage in stages)
    assert sum(timings[stage] for stage in stages) <= timings["total_seconds"]


def test_decode_gives_what_generate_gives(pipeline: Sampler) -> None:
    *_, last = pipeline.steps(ImageRequest("a", seed=1, **SMALL))
    assert (last.index, last.num_steps) == (2, 2)
    generated = pipeline.generate("a", seed=1, **SMALL).images[0]
    assert pipeline.decode(last.latents)[0].tobytes() == generated.image.tobytes()
    assert generated.seed == 1


def test_a_batched_picture_is_the_picture_alone(pipeline: Sampler) -> None:
    both = pipeline.generate(("a", "dog"), num_images=2, seed=7, **SMALL).images
    alone = pipeline.generate("dog", seed=9, **SMALL).images[0]
    assert [image.seed for image in both] == [7, 8, 9, 10]
    difference = torch.tensor(list(both[2].image.tobytes())).int()
    difference = difference - torch.tensor(list(alone.image.tobytes())).int()
    # one grey level: sums run in another order in a batch
    assert difference.abs().max() <= 1


def test_the_same_seed_gives_the_same_picture(pipeline: Sampler) -> None:
    pictures = [pipeline.generate("a", seed=s, **SMALL).images[0].image for s in (1, 1, 2)]
    assert pictures[0].tobytes() == pictures[1].tobytes() != pictures[2].tobytes()


def test_cancelling_leaves_a_working_pipeline(pipeline: Sampler) -> None:
    before = pipeline.generate("a", seed=1, **SMALL).images[0].image
    steps = pipeline.steps(ImageRequest("a", seed=1, **SMALL))
    next(steps)
    steps.close()
    after = pipeline.generate("a", seed=1, **SMALL).images[0].image
    assert before.tobytes() == after.tobytes()


def test_latents_that_are_not_finite_are_an_error(pipeline: Sampler) -> None:
    weight = pipeline.residents.use("transformer").final_layer.linear.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        # the mapping is private: the file keeps its weights
        weight.fill_(float("nan"))
        try:
            with pytest.raises(NumericalError, match="step 1"):
                pipeline.generate("a", **SMALL)
        finally:
            weight.copy_(kept)
