"""The package's tokenizer gives the published ids. Source: klein-facts D."""

import json
import shutil
from pathlib import Path

import pytest
from header_files import write_sparse
from published import entry, klein

from kleinod.errors import WeightsError
from kleinod.models.tokenizer import Tokenizer
from kleinod.request import Components
from kleinod.weights.folders import OWN_TOKENIZER, model_paths

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


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package's tokenizer taken apart, as Qwen publishes it: vocab.json and merges.txt."""
    folder = tmp_path_factory.mktemp("apart")
    model = json.loads(OWN_TOKENIZER.read_text(encoding="utf-8"))["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    lines = ["#version: 0.2", *model["merges"]]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "prompt",
    [
        "a cat",
        "",
        "It's 2026: 12345 FOXES'LL jump…  twice\n\n  <tool_call>x</tool_call> <|vision_start|>",
        "雪 кот एक बिल्ली 🦊🏽 e\u0301 naïve\tＡ\r\n",
        "<think> <|fim_pad|><|box_end|> </think><|endoftext|>",
    ],
)
def test_vocabulary_and_merges_give_the_same_ids(
    tokenizer: Tokenizer, apart: Path, prompt: str
) -> None:
    other = Tokenizer.from_file(apart / "vocab.json")
    assert other.num_tokens == tokenizer.num_tokens == 151669
    for mine, theirs in zip(other.encode([prompt]), tokenizer.encode([prompt]), strict=True):
        assert mine.tolist() == theirs.tolist()


def test_a_folder_may_hold_the_two_files(apart: Path, tmp_path: Path) -> None:
    model = write_sparse(tmp_path / "klein.safetensors", klein())
    shape = {"decoder.conv_in.weight": entry("F32", 96, 32, 3, 3), "bn.running_mean": entry("F32")}
    autoencoder = write_sparse(tmp_path / "ae.safetensors", shape)
    norm = {"model.layers.0.self_attn.q_norm.weight": entry("F32", 128)}
    lone = write_sparse(tmp_path / "text_encoder" / "model.safetensors", norm).parent
    together = tmp_path / "together"
    shutil.copytree(apart, together)
    write_sparse(together / "model.safetensors", norm)
    given = Components(text_encoder=lone, autoencoder=autoencoder, tokenizer=apart)
    assert model_paths(model, given).tokenizer == apart / "vocab.json"
    beside = Components(text_encoder=together, autoencoder=autoencoder)
    assert model_paths(model, beside).tokenizer == together / "vocab.json"
    nothing = Components(text_encoder=lone, autoencoder=autoencoder)
    assert model_paths(model, nothing).tokenizer == OWN_TOKENIZER


def test_merges_that_are_none_are_named(apart: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_bytes((apart / "vocab.json").read_bytes())
    (tmp_path / "merges.txt").write_text("no such words at all\n")
    with pytest.raises(WeightsError, match=r"is not a vocab\.json with a merges\.txt"):
        Tokenizer.from_file(tmp_path / "vocab.json")
