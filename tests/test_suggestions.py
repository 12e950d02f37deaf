"""Names that people try, and the ones they are told."""

import pytest

from kleinod.suggestions import suggestions, unknown_name

FIELDS = (
    *("prompt", "reference_images", "width", "height", "num_inference_steps", "guidance_scale"),
    *("negative_prompt", "seed", "num_images", "dtype", "device", "offload", "quantize"),
)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("image", "reference_images"),
        ("num_images_per_prompt", "num_images"),
        ("steps", "num_inference_steps"),
        ("guidance", "guidance_scale"),
        ("cfg_scale", "guidance_scale"),
        ("generator", "seed"),
        ("torch_dtype", "dtype"),
        ("enable_model_cpu_offload", "offload"),
        ("W", "width"),
        ("numImages", "num_images"),
        ("num-inference-steps", "num_inference_steps"),
        ("guidence_scale", "guidance_scale"),
        ("neg", "negative_prompt"),
        ("promt", "prompt"),
        ("num_images_per_promt", "num_images"),
        ("widht", "width"),
        ("torch_dtyp", "dtype"),
    ],
)
def test_name_that_was_meant_is_suggested(name: str, meant: str) -> None:
    assert suggestions(name, FIELDS) == (meant,)
    assert unknown_name(name, FIELDS) == f"unknown argument {name!r}; did you mean {meant!r}?"


def test_one_name_for_two_fields_suggests_both() -> None:
    message = unknown_name("size", FIELDS, kind="option")
    assert message == "unknown option 'size'; did you mean 'width' and 'height'?"
    assert suggestions("size", ["width"]) == ()


@pytest.mark.parametrize("name", ["eta", "joint_attention_kwargs", "zzz", "x", ""])
def test_name_like_no_other_lists_the_known_ones(name: str) -> None:
    message = unknown_name(name, ["seed", "width"])
    assert message == f"unknown argument {name!r}; known are seed, width"
    assert unknown_name(name, ()) == f"unknown argument {name!r}"


def test_known_name_is_suggested_in_its_own_spelling() -> None:
    assert suggestions("num_inference_steps", ["--num-inference-steps"]) == (
        "--num-inference-steps",
    )


def test_long_list_is_cut() -> None:
    known = [f"{letter}{letter}{letter}" for letter in "abcdefghijklmnop"]
    message = unknown_name("zzz", known)
    assert message.endswith("lll, …") and "mmm" not in message
