"""Under `sequential` one component is held at a time; a known prompt needs no text encoder."""

import os
from pathlib import Path

import pytest
import tiny
import torch
from torch import nn

from kleinod import catalog
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.prompt_cache import EmbeddingCache, EmbeddingStore
from kleinod.diffusion.sampler import Sampler
from kleinod.runtime.offload import AUTO_LIMIT_BYTES, Residents, chosen_policy
from kleinod.weights.fingerprint import fingerprint

FIELDS = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("klein"))


def _loaded(folder: Path, offload: str) -> Sampler:
    return load_sampler(folder, device="cpu", dtype="float32", offload=offload)


def _watched(pipeline: Sampler) -> list[tuple[str, ...]]:
    """What is held after each use of a component, as it happens."""
    held: list[tuple[str, ...]] = []
    use = pipeline.residents.use

    def watched(name: str) -> nn.Module:
        module = use(name)
        if not held or held[-1] != pipeline.residents.held:
            held.append(pipeline.residents.held)
        return module

    pipeline.residents.use = watched
    return held


def test_model_offload_holds_one_component_at_a_time(folder: Path) -> None:
    pipeline = _loaded(folder, "sequential")
    assert pipeline.residents.held == ()
    held = _watched(pipeline)
    pipeline.generate("a cat", **FIELDS)
    assert held == [("text_encoder",), ("transformer",), ("autoencoder",)]
    held.clear()
    pipeline.generate("a cat", **FIELDS)
    assert held == [("transformer",), ("autoencoder",)]


def test_all_keeps_every_component(folder: Path) -> None:
    pipeline = _loaded(folder, "auto")
    before = {name: id(pipeline.residents.use(name)) for name in pipeline.residents.held}
    assert before.keys() == {"text_encoder", "transformer", "autoencoder"}
    pipeline.generate("a cat", **FIELDS)
    assert before == {name: id(pipeline.residents.use(name)) for name in before}


def test_policies_paint_one_picture(folder: Path) -> None:
    pictures = [
        _loaded(folder, offload).generate("a cat", **FIELDS).images[0].image
        for offload in ("none", "model")
    ]
    assert pictures[0].tobytes() == pictures[1].tobytes()


def test_a_released_component_leaves_the_address_space(folder: Path) -> None:
    pipeline = _loaded(folder, "model")
    pipeline.residents.use("text_encoder")
    assert "text_encoder/model.safetensors" in Path("/proc/self/maps").read_text()
    pipeline.residents.use("transformer")
    assert "text_encoder/model.safetensors" not in Path("/proc/self/maps").read_text()


def test_auto_decides_by_size() -> None:
    assert chosen_policy("auto", AUTO_LIMIT_BYTES - 1) == "none"
    assert chosen_policy("auto", AUTO_LIMIT_BYTES) == "model"
    assert chosen_policy("none", AUTO_LIMIT_BYTES) == "none"


@pytest.mark.parametrize(("free", "policy"), [(0, "model"), (2**40, "none")])
def test_auto_keeps_on_the_cpu_what_fits_into_the_free_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, policy: str
) -> None:
    monkeypatch.setattr("kleinod.runtime.offload.AUTO_LIMIT_BYTES", 0)
    monkeypatch.setattr("kleinod.diffusion.loading.available_bytes", lambda: free)
    assert _loaded(folder, "auto").residents.policy == policy
    assert _loaded(folder, "model").residents.policy == "model"
    assert _loaded(folder, "sequential").residents.policy == "model"


def test_a_failed_load_holds_nothing() -> None:
    def failing() -> nn.Module:
        raise KeyboardInterrupt

    residents = Residents({"a": nn.Identity, "b": failing}, "sequential")
    residents.use("a")
    with pytest.raises(KeyboardInterrupt):
        residents.use("b")
    assert residents.held == ()


def test_progress_tells_each_component(folder: Path) -> None:
    seen: list[tuple[str, float]] = []
    load_sampler(folder, device="cpu", progress=lambda stage, part: seen.append((stage, part)))
    assert [stage for stage, _ in seen] == ["text_encoder", "transformer", "autoencoder", "ready"]
    assert [part for _, part in seen] == sorted(part for _, part in seen)
    assert seen[-1][1] == 1.0


def test_the_cache_encodes_each_prompt_once_and_drops_the_oldest() -> None:
    calls: list[list[str]] = []

    def encode(prompts: list[str]) -> torch.Tensor:
        calls.append(prompts)
        return torch.tensor([[[float(len(prompt))]] for prompt in prompts])

    cache = EmbeddingCache(capacity=2)
    embeds = cache.embeds(["aa", "b", "aa"], encode)
    assert embeds["aa"].item() == 2 and embeds["b"].item() == 1
    cache.embeds(["aa"], encode)
    cache.embeds(["ccc"], encode)
    cache.embeds(["aa"], encode)
    cache.embeds(["b"], encode)
    assert calls == [["aa", "b"], ["ccc"], ["b"]]


def test_more_prompts_than_the_cache_holds_are_all_given() -> None:
    cache = EmbeddingCache(capacity=1)
    embeds = cache.embeds(["a", "bb"], lambda prompts: torch.zeros(len(prompts), 1, 1))
    assert embeds.keys() == {"a", "bb"}


def test_repeated_prompt_needs_no_text_encoder(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path / "kept", "encoder-1")
    embeds = torch.randn(1, 5, 12).bfloat16()
    first = EmbeddingCache(store=store).embeds(["a cat"], lambda _: embeds)

    def refuse(prompts: list[str]) -> torch.Tensor:
        raise AssertionError(f"encoded again: {prompts}")

    again = EmbeddingCache(store=store).embeds(["a cat"], refuse)
    assert torch.equal(again["a cat"], first["a cat"])


def test_embeddings_of_another_encoder_are_not_taken(tmp_path: Path) -> None:
    EmbeddingStore(tmp_path, "encoder-1").write("a cat", torch.zeros(1, 2, 3))
    assert EmbeddingStore(tmp_path, "encoder-2").read("a cat") is None


def test_damaged_embeddings_are_computed_again(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, "encoder-1")
    store.write("a cat", torch.zeros(1, 2, 3))
    for file in tmp_path.iterdir():
        file.write_bytes(file.read_bytes()[:-5])
    assert store.read("a cat") is None


def test_store_lets_the_least_recently_used_go(tmp_path: Path) -> None:
    embeds = torch.zeros(1, 64, 64)
    store = EmbeddingStore(tmp_path, "encoder-1", limit_bytes=2 * embeds.nbytes + 1000)
    for age, prompt in enumerate(("old", "older")):
        store.write(prompt, embeds)
        for file in tmp_path.glob("*.safetensors"):
            os.utime(file, (1000 - age, 1000 - age))
    store.read("older")
    store.write("new", embeds)
    assert store.read("old") is None
    assert store.read("older") is not None and store.read("new") is not None


def test_fingerprint_follows_the_bytes(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(1_000_000))
    before = fingerprint([file], "bfloat16")
    assert fingerprint([file], "bfloat16") == before != fingerprint([file], "float32")
    file.write_bytes(bytes(999_999) + b"1")
    assert fingerprint([file], "bfloat16") != before


def test_second_run_of_a_prompt_paints_without_the_encoder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kleinod.diffusion.loading.MIN_STORED_ENCODER_BYTES", 0)
    monkeypatch.setenv("KLEINOD_CACHE", str(tmp_path))
    options = {"device": "cpu", "dtype": torch.float32, "offload": "model"}
    first = load_sampler(folder, **options).generate("a cat", **FIELDS)
    second = load_sampler(folder, **options)
    used: list[str] = []
    use = second.residents.use
    second.residents.use = lambda name: used.append(name) or use(name)  # type: ignore[method-assign]
    again = second.generate("a cat", **FIELDS)
    assert "text_encoder" not in used and "transformer" in used
    assert again.images[0].image.tobytes() == first.images[0].image.tobytes()


def test_cache_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLEINOD_CACHE", "off")
    assert catalog.cache_folder() is None
