"""Parts that do not fit, and models run as they were not trained, are named with the remedy."""

import dataclasses
import json
import logging
from pathlib import Path

import pytest
import quantised
import split_files
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import kleinod
from kleinod.catalog import ModelInfo
from kleinod.config import AutoencoderConfig, TextEncoderConfig, TransformerConfig
from kleinod.diffusion import loading
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, WeightsError
from kleinod.models.tokenizer import Tokenizer
from kleinod.request import Components
from kleinod.weights import build
from kleinod.weights.folders import OWN_TOKENIZER, ModelPaths

State = dict[str, Tensor]
PATHS = ModelPaths(Path("t"), Path("qwen.safetensors"), Path("ae"), Path("tok"))


@pytest.fixture(scope="module")
def state() -> State:
    """A small transformer in the published layout, every block linear in FP8 with its scales."""
    torch.manual_seed(0)
    file: State = {}
    for name, tensor in split_files.transformer_as_bfl(tiny.transformer().state_dict()).items():
        file[name] = tensor.contiguous()
        if "blocks." in name and tensor.dim() == 2:
            layer = name.removesuffix("weight")
            pieces = quantised.float8(file[name])[0]
            file |= {layer + piece: value.clone() for piece, value in pieces.items()}
    return file


def _refused(tmp_path: Path, state: State, metadata: dict[str, str] | None = None) -> str:
    save_file(state, tmp_path / "klein.safetensors", metadata)
    with pytest.raises(WeightsError) as caught:
        build.open_transformer(tmp_path / "klein.safetensors")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_layer_without_the_scale_that_others_have_is_named(state: State, tmp_path: Path) -> None:
    layer = "double_blocks.1.txt_mlp.0"
    rest = {name: t for name, t in state.items() if name != f"{layer}.weight_scale"}
    message = _refused(tmp_path, rest)
    assert f"layer {layer}: is float8 without a weight_scale, which 21 others have" in message
    assert "(1 lack it); fetch the file again" in message


LAYER = "single_blocks.0.linear1"


@pytest.mark.parametrize(
    ("piece", "value", "message"),
    [
        ("weight_scale", torch.tensor(float("nan")), "weight_scale is not finite"),
        ("weight_scale", torch.ones(7), "weight_scale has shape [7], not []"),
        (
            "weight_scale",
            torch.ones((), dtype=torch.int32),
            "weight_scale is stored as torch.int32",
        ),
        ("weight_scale_inv", torch.ones(2, 3), "weight_scale_inv has shape [2, 3], not [5, 1]"),
        ("comfy_quant", torch.tensor([1, 2], dtype=torch.uint8), "metadata is no JSON"),
        ("comfy_quant", torch.ones(2), "comfy_quant is no text"),
        ("weight", torch.ones(576, 64, dtype=torch.int8), "is stored as torch.int8, a format"),
        (
            "weight",
            torch.ones(576, 32, dtype=torch.uint8),
            "weight_scale has shape [], not [640, 4]",
        ),
        ("weight", torch.ones(576, 64), "is stored as torch.float32 and has a weight_scale"),
    ],
)
def test_a_flawed_piece_is_named(
    state: State, tmp_path: Path, piece: str, value: Tensor, message: str
) -> None:
    refused = _refused(tmp_path, state | {f"{LAYER}.{piece}": value})
    assert message in refused
    assert "metadata" in message or f"layer {LAYER}" in refused


def test_nvfp4_with_a_block_scale_that_is_no_number_is_named(state: State, tmp_path: Path) -> None:
    pieces = quantised.nvfp4(torch.randn(576, 64))[0]
    pieces["weight_scale"].view(torch.uint8)[0, 3] = 0xFF
    rest = {name: t for name, t in state.items() if not name.startswith(LAYER)}
    rest |= {f"{LAYER}.{piece}": value for piece, value in pieces.items()}
    assert f"layer {LAYER}: weight_scale is not finite" in _refused(tmp_path, rest)


def test_nvfp4_without_its_second_scale_is_named(state: State, tmp_path: Path) -> None:
    pieces = quantised.nvfp4(torch.randn(576, 64))[0]
    del pieces["weight_scale_2"]
    rest = {name: t for name, t in state.items() if not name.startswith(LAYER)}
    rest |= {f"{LAYER}.{piece}": value for piece, value in pieces.items()}
    assert f"layer {LAYER}: its weight_scale_2 is missing" in _refused(tmp_path, rest)


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ("int8_tensorwise", f"layer {LAYER}: has the format int8_tensorwise; only float8_e4m3fn"),
        ("nvfp4", f"layer {LAYER}: is said to be nvfp4 and stored as torch.float8_e4m3fn"),
    ],
)
@pytest.mark.parametrize("place", ["header", "tensor"])
def test_a_marker_that_does_not_fit_is_named(
    state: State, tmp_path: Path, form: str, message: str, place: str
) -> None:
    text = json.dumps({"format": form})
    if place == "tensor":
        marker = torch.tensor(list(text.encode()), dtype=torch.uint8)
        assert message in _refused(tmp_path, state | {f"{LAYER}.comfy_quant": marker})
    else:
        layers = json.dumps({"layers": {LAYER: {"format": form}}})
        assert message in _refused(tmp_path, state, {"_quantization_metadata": layers})


@pytest.mark.parametrize("text", ["{", "[]", '{"layers": 3}'])
def test_unreadable_metadata_is_named(state: State, tmp_path: Path, text: str) -> None:
    assert "metadata" in _refused(tmp_path, state, {"_quantization_metadata": text})


def test_a_scale_without_its_weight_is_unknown(state: State, tmp_path: Path) -> None:
    message = _refused(tmp_path, state | {"double_blocks.1.img_mlp.5.weight_scale": torch.ones(())})
    assert "has the unknown tensor double_blocks.1.img_mlp.5.weight_scale" in message


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"GGUF", "cut short"),
        (b"GGUF" + b"\xff" * 60, "GGUF version 4294967295 is not read"),
        (b"no gguf" * 9, "is text \\('no gguf"),
    ],
)
def test_a_broken_gguf_file_is_named(tmp_path: Path, data: bytes, message: str) -> None:
    file = tmp_path / "klein.gguf"
    file.write_bytes(data)
    with pytest.raises(WeightsError, match=message):
        build.open_transformer(file)


def test_several_gguf_files_ask_for_one(tmp_path: Path) -> None:
    for name in ("Q4_0", "Q8_0"):
        (tmp_path / f"klein-{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(WeightsError, match=r"holds 2 \.gguf files; name one"):
        build.open_transformer(tmp_path)


def test_flux1_is_named(tmp_path: Path) -> None:
    assert "it is FLUX.1, not klein" in _refused(
        tmp_path, {"vector_in.in_layer.weight": torch.ones(2, 2)}
    )


@pytest.mark.parametrize(
    ("channels", "family"),
    [(4, "Stable Diffusion's"), (16, "FLUX.1's"), (8, "of another family")],
)
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_another_familys_autoencoder_is_named(
    tmp_path: Path, channels: int, family: str, layout: str
) -> None:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
    )
    tensors = model.state_dict()
    if layout == "bfl":
        tensors = split_files.autoencoder_as_bfl(tensors)
    save_file({n: t.contiguous() for n, t in tensors.items()}, tmp_path / "ae.safetensors")
    with pytest.raises(WeightsError) as caught:
        build.open_autoencoder(tmp_path / "ae.safetensors")
    assert f"not a FLUX.2 autoencoder but {family}" in str(caught.value)
    assert f"with {channels} latent channels" in str(caught.value)


def _modules(text: TextEncoderConfig, transformer: TransformerConfig) -> dict[str, object]:
    """Only their configurations are asked."""
    configs = {"text_encoder": text, "transformer": transformer, "autoencoder": AutoencoderConfig()}
    modules = {name: nn.Module() for name in configs}
    for name, module in modules.items():
        module.config = configs[name]
    return modules


def test_the_other_sizes_text_encoder_is_named_by_name() -> None:
    tokenizer, info = Tokenizer.from_file(OWN_TOKENIZER), ModelInfo("klein-4b", True)
    small, large = TextEncoderConfig(), TextEncoderConfig(hidden_size=4096)
    loading._check_pair(_modules(small, TransformerConfig()), tokenizer, info, PATHS)
    with pytest.raises(WeightsError) as caught:
        loading._check_pair(_modules(large, TransformerConfig()), tokenizer, info, PATHS)
    assert "gives 12288 numbers per token (Qwen3-8B, klein 9B's)" in str(caught.value)
    assert "the transformer reads 7680 numbers per token (Qwen3-4B, klein 4B's)" in str(
        caught.value
    )


def test_a_tokenizer_with_other_numbers_is_named(tmp_path: Path) -> None:
    spoilt = json.loads(OWN_TOKENIZER.read_text())
    names = {"<|endoftext|>": "<|im_start|>", "<|im_start|>": "<|endoftext|>"}
    for token in spoilt["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    (tmp_path / "tokenizer.json").write_text(json.dumps(spoilt))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    with pytest.raises(WeightsError, match="has the number 151644, in Qwen3 151643"):
        loading._check_tokenizer(tokenizer, TextEncoderConfig(), tmp_path)


def test_a_tokenizer_that_is_too_small_is_named() -> None:
    tokenizer = Tokenizer(tiny.tokenizer().backend_tokenizer)
    with pytest.raises(WeightsError, match="has 261 tokens, the text encoder 151936"):
        loading._check_tokenizer(tokenizer, TextEncoderConfig(), Path("tok"))


def _tokenizer_without(word: str, path: Path) -> Path:
    spoilt = json.loads(tiny.tokenizer().backend_tokenizer.to_str())
    spoilt["added_tokens"] = [t for t in spoilt["added_tokens"] if t["content"] != word]
    path.write_text(json.dumps(spoilt))
    return path


@pytest.mark.parametrize("word", ["<|endoftext|>", "<|im_end|>", "<think>"])
def test_a_tokenizer_without_the_templates_words_is_named(tmp_path: Path, word: str) -> None:
    file = _tokenizer_without(word, tmp_path / "tokenizer.json")
    with pytest.raises(WeightsError) as caught:
        Tokenizer.from_file(file)
    assert f"has no {word}; take a Qwen3 tokenizer" in str(caught.value)


def _warnings(pipeline: kleinod.Sampler, caplog: pytest.LogCaptureFixture, **fields) -> list[str]:  # noqa: ANN003
    caplog.clear()
    with caplog.at_level(logging.WARNING, "kleinod.pipeline"):
        next(pipeline.steps(kleinod.ImageRequest("a cat", width=64, height=64, **fields)))
    return [record.message for record in caplog.records]


def test_a_base_model_with_distilled_settings_is_warned_of(
    tiny_model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline = load_sampler(tiny_model, device="cpu")
    assert _warnings(pipeline, caplog, num_inference_steps=4) == []
    base = dataclasses.replace(
        pipeline.info, name="base", is_distilled=False, num_inference_steps=50, guidance_scale=4.0
    )
    pipeline.info = base
    assert _warnings(pipeline, caplog) == []
    assert _warnings(pipeline, caplog, num_inference_steps=20, guidance_scale=5.0) == []
    for fields in ({"num_inference_steps": 4}, {"guidance_scale": 1.0}):
        lines = _warnings(pipeline, caplog, **fields)
        assert len(lines) == 1
        assert "base is a base model" in lines[0]
        assert "leave both out (50 steps, guidance 4.0)" in lines[0]
    assert _warnings(pipeline, caplog, guidance_scale=1.0) == []  # told once


@pytest.mark.parametrize("name", ["klein-9b-kv", "flux-2-klein-9b-kv-fp8"])
def test_a_kv_model_with_references_is_warned_of(
    tiny_model: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    pipeline = load_sampler(tiny_model, device="cpu")
    pipeline.info = dataclasses.replace(pipeline.info, name=name)
    assert _warnings(pipeline, caplog) == []
    lines = _warnings(pipeline, caplog, reference_images=(tiny.picture(64, 64),))
    assert len(lines) == 1 and "take klein-9b for edits" in lines[0]


def test_a_tokenizer_folder_without_a_tokenizer_is_named(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(InputError, match=r"nor vocab\.json and merges\.txt"):
        load_sampler(tiny_model, components=Components(tokenizer=tmp_path), device="cpu")


def test_a_file_in_another_format_is_named(tmp_path: Path) -> None:
    (tmp_path / "klein.ckpt").write_bytes(b"\x80\x04\x95" + bytes(60))
    with pytest.raises(WeightsError, match="is a pickle, which may hold code"):
        build.open_transformer(tmp_path / "klein.ckpt")


def test_the_fixture_loads(state: State, tmp_path: Path) -> None:
    """What the tests above spoil is whole."""
    save_file(state, tmp_path / "klein.safetensors")
    build.open_transformer(tmp_path / "klein.safetensors")
    assert load_file(tmp_path / "klein.safetensors").keys() == state.keys()
