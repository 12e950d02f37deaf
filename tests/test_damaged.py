"""Damaged and hostile models: numbers that are not finite, absurd sizes, strange tokenizers."""

import json
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quantised
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from torch import Tensor, nn

from kleinod import catalog
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.prompt_cache import EmbeddingCache, EmbeddingStore
from kleinod.errors import KleinodError, NumericalError, WeightsError
from kleinod.models import tokenizer as tokenizers
from kleinod.quantization.int8 import quantized
from kleinod.quantization.scaled_float8 import with_float8_products
from kleinod.request import Components
from kleinod.weights import build, files
from kleinod.weights.finiteness import cause_of_not_finite, first_not_finite, is_finite
from kleinod.weights.folders import OWN_TOKENIZER

CPU = torch.device("cpu")
BAD = [float("nan"), float("inf"), -float("inf")]
LINEAR = "single_blocks.0.linear1.weight"


@pytest.fixture
def copy(tiny_model: Path, tmp_path: Path) -> Path:
    """A model's folder that may be spoilt."""
    return Path(shutil.copytree(tiny_model, tmp_path / "copy"))


def _spoil(file: Path, name: str, value: float, dtype: torch.dtype | None = None) -> None:
    state = load_file(file)
    state[name] = state[name].clone()
    state[name].view(-1)[7] = value
    save_file({n: t.to(dtype or t.dtype) for n, t in state.items()}, file)


# Numbers that are not finite


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("quantize", [None, "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_weight_that_is_not_finite_is_refused_in_every_mode(
    copy: Path, value: float, quantize: str | None, dtype: str
) -> None:
    _spoil(copy / "transformer/model.safetensors", LINEAR, value)
    with pytest.raises(KleinodError) as caught:
        pipeline = load_sampler(copy, device="cpu", dtype=dtype, quantize=quantize)
        pipeline.generate("a cat", width=64, height=64, num_inference_steps=1)
    if quantize or dtype != "float32":
        assert f"tensor {LINEAR} holds NaN or infinity" in str(caught.value)
        assert isinstance(caught.value, WeightsError)
    else:  # mapped: nothing is converted, and nothing is read twice
        assert isinstance(caught.value, NumericalError)


@pytest.mark.parametrize("name", ["img_in.weight", "double_blocks.0.img_attn.norm.key_norm.scale"])
@pytest.mark.parametrize("value", BAD[:2])
def test_int8_does_not_hide_it_in_what_is_not_packed(copy: Path, name: str, value: float) -> None:
    _spoil(copy / "transformer/model.safetensors", name, value)
    with pytest.raises(KleinodError, match=r"not finite|holds NaN"):
        pipeline = load_sampler(copy, device="cpu", dtype="float32", quantize="int8")
        pipeline.generate("a cat", width=64, height=64, num_inference_steps=1)


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_quantized_row_that_is_not_finite_has_such_a_scale(
    value: float, dtype: torch.dtype
) -> None:
    x = torch.randn(5, 64).to(dtype)
    x[3, 9] = value
    x[1] = 0
    rows = quantized(x)
    assert rows.scale.isfinite()[:, 0].tolist() == [True, True, True, False, True]
    assert rows.scale[1] == 1 and not rows.codes[1].any()


@pytest.mark.parametrize("value", BAD)
def test_float8_products_refuse_it(value: float) -> None:
    module = nn.Sequential()
    module.add_module("double_blocks", nn.Linear(32, 32, bias=False))
    named = nn.ModuleDict({"double_blocks": nn.ModuleDict({"0": nn.Linear(32, 32, bias=False)})})
    named.requires_grad_(False)
    named["double_blocks"]["0"].weight[3, 4] = value
    with pytest.raises(WeightsError, match=r"weight double_blocks\.0\.weight holds NaN"):
        with_float8_products(named)


def _fp8(file: Path, change: Any) -> None:  # noqa: ANN401
    """The transformer with FP8 block linears, changed by a function of the tensors."""
    state: dict[str, Tensor] = {}
    for name, tensor in load_file(file).items():
        if "blocks" in name and tensor.dim() == 2:
            pieces = quantised.float8(tensor)[0]
            state |= {name.removesuffix("weight") + p: v.clone() for p, v in pieces.items()}
        else:
            state[name] = tensor
    change(state)
    save_file(state, file)


def test_a_float8_code_of_nan_is_refused_where_it_is_packed(copy: Path) -> None:
    def change(state: dict[str, Tensor]) -> None:
        state[LINEAR].view(torch.uint8)[2, 3] = 0x7F

    _fp8(copy / "transformer/model.safetensors", change)
    with pytest.raises(WeightsError, match=f"tensor {LINEAR} holds NaN"):
        load_sampler(copy, device="cpu", quantize="int8")
    module = build.open_transformer(copy / "transformer").filled(CPU, torch.float32)
    assert first_not_finite(module) == "single_blocks.0.linear1.parts.0"
    with pytest.raises(WeightsError, match=r"weight single_blocks\.0\.linear1\.weight holds NaN"):
        with_float8_products(module)


@pytest.mark.parametrize("value", BAD)
def test_a_float8_scale_is_refused_at_once(copy: Path, value: float) -> None:
    _fp8(
        copy / "transformer/model.safetensors",
        lambda state: state["single_blocks.0.linear1.weight_scale"].fill_(value),
    )
    with pytest.raises(WeightsError, match=r"linear1: weight_scale is not finite"):
        build.open_transformer(copy / "transformer")


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "IQ4_NL"])
def test_a_gguf_block_is_refused_where_it_is_packed(tmp_path: Path, name: str) -> None:
    from kleinod.quantization.gguf_weight import GGUFWeight
    from kleinod.quantization.int8 import Int8Linear
    from kleinod.weights.gguf_files import FORMATS

    raw, _ = quantised.gguf_blocks(torch.randn(64, 256) * 0.05, name)
    raw = raw.copy()
    raw[5, :2] = np.array([np.nan], np.float16).view(np.uint8)
    weight = GGUFWeight(torch.from_numpy(raw), FORMATS[name])
    assert not Int8Linear((weight,)).is_finite
    assert first_not_finite(nn.Sequential(weight)) == "0"


def test_the_cause_names_the_tensor_or_the_remedy(copy: Path) -> None:
    plain = build.open_transformer(copy / "transformer").filled(CPU, torch.float32)
    assert cause_of_not_finite({"transformer": plain}, torch.bfloat16) == "try dtype float32"
    assert "float32" in cause_of_not_finite({"transformer": plain}, torch.float32)
    assert "try" not in cause_of_not_finite({"transformer": plain}, torch.float32)
    _spoil(copy / "transformer/model.safetensors", LINEAR, float("nan"))
    bad = build.open_transformer(copy / "transformer").filled(CPU, torch.float32)
    cause = cause_of_not_finite({"transformer": plain, "other": bad}, torch.bfloat16)
    assert cause == f"other weight {LINEAR} holds NaN or infinity; fetch the model again"


def test_finite_is_what_isfinite_says() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        good = torch.tensor([0.0, -1.0, torch.finfo(dtype).max, torch.finfo(dtype).min]).to(dtype)
        good = torch.tensor([0, -1, 1], dtype=dtype) if not good.isfinite().all() else good
        assert is_finite(good) and is_finite(good[:0])
        for value in BAD:
            assert not is_finite(torch.cat((good, torch.tensor([value], dtype=dtype))))
    assert is_finite(torch.arange(3))


# Absurd sizes


BAD_CONFIGS = [
    ("vae", {"block_out_channels": []}, "block_out_channels"),
    ("vae", {"block_out_channels": [16]}, "block_out_channels"),
    ("vae", {"block_out_channels": [16] * 10_000}, "block_out_channels"),
    ("vae", {"block_out_channels": [16, 16, 16, 2**31]}, "from 1 to 16384"),
    ("vae", {"block_out_channels": [16, 16, 16, 20]}, "not a multiple of 8 norm groups"),
    ("vae", {"decoder_block_out_channels": [16, 16]}, "decoder_block_out_channels"),
    ("vae", {"norm_num_groups": 10**9}, "norm_num_groups"),
    ("vae", {"batch_norm_eps": float("nan")}, "batch_norm_eps"),
    ("transformer", {"axes_dims_rope": [8] * 1_000_000}, "axes_dims_rope"),
    ("transformer", {"axes_dims_rope": [2**31]}, "from 2 to 1024"),
    ("transformer", {"axes_dims_rope": [8, 8, 8, 10]}, "sum is attention_head_dim, 32"),
    ("transformer", {"axes_dims_rope": [7, 9, 8, 8]}, "not even numbers"),
    ("transformer", {"axes_dims_rope": []}, "axes_dims_rope"),
    ("transformer", {"num_attention_heads": 10**400}, "num_attention_heads is 1000"),
    ("transformer", {"mlp_ratio": float("inf")}, "mlp_ratio"),
    ("transformer", {"eps": 1e300}, "eps"),
    ("transformer", {"timestep_guidance_channels": 2**40}, "timestep_guidance_channels"),
    ("text_encoder", {"num_hidden_layers": 10**6}, "from 1 to 256"),
    ("text_encoder", {"vocab_size": 2**40}, "vocab_size"),
    ("text_encoder", {"num_key_value_heads": 3}, "not a multiple of 3 key-value heads"),
    ("text_encoder", {"head_dim": 15}, "head_dim is 15, not even"),
    ("text_encoder", {"rope_theta": "x" * 10_000}, "is 'x{50,100}…; fetch"),
]


@pytest.mark.parametrize(("component", "values", "message"), BAD_CONFIGS)
def test_a_configuration_out_of_range_is_one_line(
    copy: Path, component: str, values: dict[str, object], message: str
) -> None:
    file = copy / component / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(WeightsError, match=message) as caught:
        load_sampler(copy, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize(
    "values",
    [
        {"max_text_tokens": 10**400},
        {"max_text_tokens": 100_000},
        {"default_size": 2**31},
        {"default_size": 4096},
        {"default_size": 100},
        {"num_inference_steps": 10**9},
        {"num_inference_steps": True},
        {"guidance_scale": 1e400},
        {"guidance_scale": 0.5},
        {"text_layers": [1] * 100},
        {"text_layers": [3, 2, 1]},
        {"text_layers": [1, 10**9]},
        {"name": "a\x1b[31m"},
        {"name": "x" * 5000},
        {"license": "a\nb"},
    ],
)
def test_a_models_own_facts_have_the_ranges_of_requests(
    copy: Path, values: dict[str, object]
) -> None:
    file = copy / "kleinod.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    name = next(iter(values))
    with pytest.raises(WeightsError, match=rf"{name} is .*; fetch the model again") as caught:
        load_sampler(copy, device="cpu")
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_configuration_nested_too_deeply_is_one_line(copy: Path) -> None:
    (copy / "model_index.json").write_text("[" * 200_000)
    with pytest.raises(WeightsError, match="cannot be read"):
        catalog.describe(copy, copy)


# Tokenizers


def _tokenizer(copy: Path, change: Any) -> Path:  # noqa: ANN401
    file = copy / "tokenizer" / "tokenizer.json"
    backend = Tokenizer.from_file(str(file))
    change(backend)
    backend.save(str(file))
    return file


def _set(**parts: object) -> Any:  # noqa: ANN401
    def change(backend: Tokenizer) -> None:
        for name, part in parts.items():
            setattr(backend, name, part)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set(normalizer=normalizers.Prepend("x" * 1000)), "normalizer"),
        (_set(normalizer=normalizers.Replace("a", "b" * 1000)), "normalizer"),
        (_set(normalizer=normalizers.NFKC()), "normalizer"),
        (
            _set(normalizer=normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])),
            "normalizer",
        ),
        (_set(pre_tokenizer=pre_tokenizers.Split(Regex("(a+)+$"), "isolated")), "pre_tokenizer"),
        (_set(pre_tokenizer=pre_tokenizers.Whitespace()), "pre_tokenizer"),
        (_set(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)), "pre_tokenizer"),
        (
            _set(
                pre_tokenizer=pre_tokenizers.Sequence(
                    [pre_tokenizers.ByteLevel(add_prefix_space=False)] * 5
                )
            ),
            "pre_tokenizer",
        ),
    ],
)
def test_a_tokenizer_of_other_parts_is_refused(copy: Path, change, message: str) -> None:  # noqa: ANN001
    file = _tokenizer(copy, change)
    with pytest.raises(WeightsError, match=f"its {message} is not one of Qwen's tokenizers"):
        tokenizers.Tokenizer.from_file(file)


def test_qwens_own_parts_are_taken(copy: Path) -> None:
    own = Tokenizer.from_file(str(OWN_TOKENIZER))
    change = _set(normalizer=own.normalizer, pre_tokenizer=own.pre_tokenizer)
    assert tokenizers.Tokenizer.from_file(_tokenizer(copy, change)).word_ids("a cat")


def test_a_number_beyond_the_table_is_refused(copy: Path) -> None:
    file = copy / "tokenizer" / "tokenizer.json"
    values = json.loads(file.read_text())
    values["model"]["vocab"]["a"] = 1_000_000
    file.write_text(json.dumps(values))
    backend = tokenizers.Tokenizer.from_file(file)
    with pytest.raises(WeightsError, match="gives the number 1000000 for one of its 261 tokens"):
        backend.encode(["a cat"])
    values["model"]["vocab"]["<|endoftext|>"] = 5_000_000
    file.write_text(json.dumps(values))
    with pytest.raises(WeightsError, match="has the number 5000000 of"):
        tokenizers.Tokenizer.from_file(file)


def test_a_panic_of_the_library_is_an_error(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It derives from BaseException, and ended the thread that met it."""

    class PanicError(BaseException):
        """As the library's."""

    def panic(*arguments: object, **options: object) -> None:
        raise PanicError("index out of bounds")

    backend = tokenizers.Tokenizer.from_file(copy / "tokenizer" / "tokenizer.json")
    backend._backend = type("Backend", (), {"encode": panic})()  # type: ignore[assignment]
    seen: list[BaseException] = []

    def encode() -> None:
        try:
            backend.word_ids("a cat")
        except WeightsError as error:
            seen.append(error)

    thread = threading.Thread(target=encode)
    thread.start()
    thread.join()
    assert len(seen) == 1 and "index out of bounds" in str(seen[0])
    monkeypatch.setattr(tokenizers, "_from_json", panic)
    with pytest.raises(WeightsError, match=r"is not a tokenizer\.json"):
        tokenizers.Tokenizer.from_file("tokenizer.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"version": "1.0", "model": {}}', "\x00"])
def test_a_tokenizer_that_is_none_is_one_line(copy: Path, text: str) -> None:
    (copy / "tokenizer" / "tokenizer.json").write_text(text)
    with pytest.raises(WeightsError, match=r"is not a tokenizer\.json"):
        load_sampler(copy, device="cpu")


def test_shards_that_are_links_are_checked(copy: Path) -> None:
    (copy / "vae" / "a.safetensors").symlink_to("a.safetensors")
    (copy / "vae" / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="a link that leads to no file"):
        files.num_bytes(copy / "vae")
    with pytest.raises(WeightsError, match="a link that leads to no file"):
        load_sampler(copy, components=Components(), device="cpu")


def test_embeddings_that_are_not_finite_are_not_kept(tmp_path: Path) -> None:
    cache = EmbeddingCache(store=EmbeddingStore(tmp_path, "name"))
    cache.embeds(["a cat"], lambda prompts: torch.full((1, 4, 8), float("nan")))
    assert not list(tmp_path.iterdir())
    cache.embeds(["a fox"], lambda prompts: torch.ones(1, 4, 8))
    assert len(list(tmp_path.iterdir())) == 1
