"""Each impossible request is refused in one line with field, value, limit and remedy."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from kleinod.errors import InputError
from kleinod.request import Components, ImageRequest


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"width": 65}, "width: 65 is not a multiple of 16; the nearest is 64"),
        ({"height": 120}, "height: 120 is not a multiple of 16; the nearest is 128"),
        ({"height": 48}, "height: 48 is under 64; give at least 64"),
        ({"width": -64}, "width: -64 is under 64; give at least 64"),
        ({"width": 0}, "width: 0 is under 64; give at least 64"),
        ({"width": 64.5}, "width: 64.5 is not an integer; give one from 64 to 65536"),
        ({"seed": float("inf")}, "seed: inf is not an integer"),
        ({"seed": "7"}, "seed: '7' is not an integer"),
        ({"width": 2064, "height": 2048}, "width x height: 2064x2048 is over 4 megapixels"),
        ({"width": 10**9}, "width: 1000000000 is over"),
        ({"width": 1024, "height": 64}, "width x height: 1024x64 is longer than 8:1"),
        ({"num_inference_steps": 0}, "num_inference_steps: 0 is under 1; give at least 1"),
        ({"num_inference_steps": 10**12}, "num_inference_steps: 1000000000000 is over 1000"),
        ({"num_images": 0}, "num_images: 0 is under 1; give at least 1"),
        ({"num_images": None}, "num_images: None is not an integer; give one from 1 to 256"),
        ({"num_images": True}, "num_images: True is not an integer; give one from 1 to 256"),
        ({"seed": -1}, "seed: -1 is under 0; give at least 0"),
        ({"seed": 2**64}, "seed: 18446744073709551616 is over"),
        ({"guidance_scale": 0.5}, "guidance_scale: 0.5 is under 1"),
        (
            {"guidance_scale": float("nan")},
            "guidance_scale: nan is not a finite number",
        ),
        (
            {"guidance_scale": "4"},
            "guidance_scale: '4' is not a finite number",
        ),
        ({"prompt": ()}, "prompt: the list is empty"),
        ({"prompt": 7}, "prompt: 7 is not a string"),
        ({"prompt": ("a", None)}, "prompt: None is not a string"),
        ({"prompt": "\ud800"}, "prompt: '\\ud800' is not valid Unicode"),
        ({"negative_prompt": None}, "negative_prompt: None is not a string"),
        ({"prompt": b"x" * 9999}, "prompt: b'xxx"),
        ({"seed": 2**63 - 1, "num_images": 2}, "seed: 9223372036854775807 with 2 images"),
        ({"seed": 2**63 - 3, "prompt": ("a", "b"), "num_images": 2}, "seed: 92233720368547758"),
    ],
)
def test_impossible_request_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        ImageRequest(**({"prompt": "a cat"} | fields)).validate()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"width": 2048, "height": 2048},
        {"width": 512, "height": 64},
        {"prompt": ""},
        {"prompt": ("a", "雪")},
        {"guidance_scale": 1},
        {"reference_images": "cat.png"},
        {"seed": 2**63 - 1},
        {"seed": 2**63 - 256, "num_images": 256, "num_inference_steps": 1000},
    ],
)
def test_possible_request_passes(fields: dict[str, Any]) -> None:
    ImageRequest(**({"prompt": "a cat"} | fields)).validate()


def test_one_reference_counts_as_a_tuple_of_one() -> None:
    assert ImageRequest("a", "cat.png").references == ("cat.png",)
    assert ImageRequest("a", ["a.png", "b.png"]).references == ("a.png", "b.png")
    assert ImageRequest("a", None).references == ImageRequest("a").references == ()


def test_unknown_field_names_the_one_that_is_meant() -> None:
    with pytest.raises(InputError, match=r"'numimages'; did you mean 'num_images'"):
        ImageRequest("a", numimages=2)  # type: ignore[call-arg]


@pytest.mark.parametrize("seven", [7.0, np.int32(7), np.int64(7), np.uint8(7), np.float32(7)])
@pytest.mark.parametrize("field", ["seed", "num_images", "num_inference_steps"])
def test_whole_numbers_of_every_type_are_pythons(field: str, seven: object) -> None:
    request = ImageRequest("a cat", **{field: seven})
    request.validate()
    assert (getattr(request, field), type(getattr(request, field))) == (7, int)


@pytest.mark.parametrize("scale", [np.float32(2.5), np.float64(2.5), 2.5])
def test_guidance_of_every_type_is_pythons(scale: object) -> None:
    request = ImageRequest("a cat", guidance_scale=scale)
    request.validate()
    assert (request.guidance_scale, type(request.guidance_scale)) == (2.5, float)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ImageRequest(), "prompt: nothing is given; call ImageRequest(prompt=…)"),
        (lambda: ImageRequest(width=64), "prompt: nothing is given"),
        (lambda: ImageRequest("a", prompt="b"), "prompt: 'b' is a second value; give one"),
        (lambda: ImageRequest("a", strength=1), "unknown argument 'strength'; a reference image"),
        (lambda: ImageRequest(*range(12)), "ImageRequest: 9 is one argument too many"),
        (lambda: Components(vae="a"), "unknown argument 'vae'; did you mean 'autoencoder'?"),
        (lambda: Components("a", "b", "c", "d"), "Components: 'd' is one argument too many"),
    ],
)
def test_wrong_call_is_one_line(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
