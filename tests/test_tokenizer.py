"""The package's tokenizer gives the published ids. Source: klein-facts D."""

import pytest

from kleinod.models.tokenizer import Tokenizer
from kleinod.weights.folders import OWN_TOKENIZER

A_CAT = [151644, 872, 198, 64, 8251, 151645, 198, 151644, 77091, 198, 151667, 271, 151668, 271]
PAD = 151643


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(OWN_TOKENIZER)


@pytest.mark.parametrize(("prompt", "expected"), [("a cat", A_CAT), ("", A_CAT[:3] + A_CAT[5:])])
def test_prompt_gives_the_published_ids(
    tokenizer: Tokenizer, prompt: str, expected: list[int]
) -> None:
    ids, mask = tokenizer.encode([prompt])
    assert ids.shape == mask.shape == (1, 512)
    assert ids[0, : len(expected)].tolist() == expected
    assert set(ids[0, len(expected) :].tolist()) == {PAD}
    assert mask[0].tolist() == [1] * len(expected) + [0] * (512 - len(expected))


def test_a_long_prompt_loses_its_tail(tokenizer: Tokenizer) -> None:
    ids, mask = tokenizer.encode(["cat " * 1000])
    assert mask.sum() == 512
    assert ids[0, :3].tolist() == A_CAT[:3]
    assert ids[0, -1] == 8251
