"""The key tables against the published names, in both directions, bit for bit."""

import pytest
import split_files
import tiny
import torch
from torch import Tensor

from kleinod.weights.key_maps import AUTOENCODER, TRANSFORMER, Row, to_bfl, to_diffusers

CASES = [
    pytest.param(tiny.transformer, split_files.transformer_as_bfl, TRANSFORMER, id="transformer"),
    pytest.param(tiny.autoencoder, split_files.autoencoder_as_bfl, AUTOENCODER, id="autoencoder"),
]


def _assert_equal(mine: dict[str, tuple[Tensor, ...]], theirs: dict[str, Tensor]) -> None:
    assert mine.keys() == theirs.keys()
    for name, parts in mine.items():
        joined = torch.cat(parts) if len(parts) > 1 else parts[0]
        assert torch.equal(joined, theirs[name]), name


@pytest.mark.parametrize(("model", "as_bfl", "table"), CASES)
def test_diffusers_names_become_bfls(model, as_bfl, table: tuple[Row, ...]) -> None:  # noqa: ANN001
    state = model().state_dict()
    _assert_equal(to_bfl(state, table), as_bfl(state))


@pytest.mark.parametrize(("model", "as_bfl", "table"), CASES)
def test_bfls_names_become_diffusers(model, as_bfl, table: tuple[Row, ...]) -> None:  # noqa: ANN001
    state = model().state_dict()
    _assert_equal(to_diffusers(as_bfl(state), table), state)


@pytest.mark.parametrize(("model", "as_bfl", "table"), CASES)
def test_names_of_the_wanted_layout_stay(model, as_bfl, table: tuple[Row, ...]) -> None:  # noqa: ANN001
    state = model().state_dict()
    _assert_equal(to_diffusers(state, table), state)
    _assert_equal(to_bfl(as_bfl(state), table), as_bfl(state))


def test_an_incomplete_qkv_keeps_its_names() -> None:
    names = ["transformer_blocks.0.attn.to_q.weight", "transformer_blocks.0.attn.to_k.weight"]
    assert to_bfl({name: torch.ones(2, 2) for name in names}, TRANSFORMER).keys() == set(names)


def test_a_fused_scale_goes_to_each_third() -> None:
    scale = {"double_blocks.0.img_attn.qkv.weight_scale": torch.tensor(0.5)}
    thirds = to_diffusers(scale, TRANSFORMER)
    stem = "transformer_blocks.0.attn."
    assert thirds.keys() == {f"{stem}{name}.weight_scale" for name in ("to_q", "to_k", "to_v")}
    assert all(parts[0] == 0.5 for parts in thirds.values())
