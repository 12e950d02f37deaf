"""Every published number format paints diffusers' picture of the dequantised weights.

Within one grey level in float32, as the plain formats (tests/test_whole_picture.py); seen: 1. The
files are written by tests/quantised.py, diffusers' save_pretrained and the gguf package.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import pytest
import quantised
import split_files
import tiny
import torch
from diffusers import Flux2KleinPipeline, Flux2Transformer2DModel
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen3Config, Qwen3ForCausalLM

from kleinod.compute.matmul import JoinedLinear, TiledColumns, product_dtype
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.quantization.stored import StoredEmbedding, StoredLinear, StoredWeight
from kleinod.request import Components
from kleinod.weights.key_maps import TRANSFORMER, to_diffusers

State = dict[str, Tensor]
Store = Callable[[Tensor], quantised.Stored]


@dataclass
class Parts:
    """The oracle, and the folder that it saved: the parts that are not under test."""

    oracle: Flux2KleinPipeline
    folder: Path

    def components(self, **given: Path) -> Components:
        """Every part from the folder, except the given ones."""
        paths = {
            "text_encoder": self.folder / "text_encoder",
            "autoencoder": self.folder / "vae",
            "tokenizer": self.folder / "tokenizer",
        }
        return Components(**(paths | given))


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A transformer of width 256 (blocks of GGUF are 256 wide) and the tiny rest."""
    oracle = tiny.oracle()
    torch.manual_seed(1)
    oracle.register_modules(transformer=_wide_transformer(oracle.text_encoder.config.hidden_size))
    folder = tmp_path_factory.mktemp("klein")
    oracle.save_pretrained(folder)
    return Parts(oracle, folder)


def _wide_transformer(width: int) -> Flux2Transformer2DModel:
    model = Flux2Transformer2DModel(
        in_channels=128,
        guidance_embeds=False,
        num_layers=2,
        num_single_layers=3,
        num_attention_heads=2,
        attention_head_dim=128,
        joint_attention_dim=3 * width,
        axes_dims_rope=(32, 32, 32, 32),
    )
    # larger weights, so that what is lost in them shows in the picture
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(2)
    return model.eval()


def _pixels(picture) -> NDArray[np.int64]:  # noqa: ANN001
    return np.asarray(picture, dtype=int)


def _expected(oracle: Flux2KleinPipeline) -> NDArray[np.int64]:
    picture = oracle(
        prompt="a cat",
        width=64,
        height=64,
        num_inference_steps=2,
        guidance_scale=1.0,
        generator=torch.Generator().manual_seed(5),
    ).images[0]
    return _pixels(picture)


def _painted(pipeline: Sampler) -> NDArray[np.int64]:
    result = pipeline.generate("a cat", width=64, height=64, num_inference_steps=2, seed=5)
    return _pixels(result.images[0].image)


def _assert_close(mine: NDArray[np.int64], theirs: NDArray[np.int64]) -> None:
    assert np.abs(mine - theirs).max() <= 1


def _quantised(state: State, store: Store, chosen: Callable[[str], bool]) -> tuple[State, State]:
    """A file's tensors and the state they stand for; the layers not chosen stay bfloat16."""
    file: State = {}
    dense: State = {}
    for name, tensor in state.items():
        if tensor.dim() == 2 and chosen(name):
            pieces, dense[name] = store(tensor.float().contiguous())
            layer = name.removesuffix(".weight")
            file |= {f"{layer}.{piece}": value.clone() for piece, value in pieces.items()}
        else:
            file[name] = tensor.bfloat16().contiguous()
            dense[name] = file[name].float()
    return file, dense


def _in_blocks(name: str) -> bool:
    return "blocks." in name


def _every_linear(name: str) -> bool:
    return name.endswith(".weight")


def _some(name: str) -> bool:
    return _in_blocks(name) and "img_attn" not in name and "single_blocks.0" not in name


def _mixed(weight: Tensor) -> quantised.Stored:
    """FP8 and NVFP4 in one file, as ComfyUI's mixed text encoders."""
    if weight.shape[0] > weight.shape[1]:
        return quantised.marked(quantised.nvfp4(weight), "nvfp4")
    return quantised.marked(
        quantised.float8(weight), "float8_e4m3fn", full_precision_matrix_mult=True
    )


def _e5m2(weight: Tensor) -> quantised.Stored:
    return quantised.marked(quantised.float8(weight, torch.float8_e5m2), "float8_e5m2")


def _wide_scales(weight: Tensor) -> quantised.Stored:
    return quantised.block_float8(weight, torch.float32)


def _doubled_columns(weight: Tensor) -> quantised.Stored:
    return quantised.nvfp4(weight, torch.linspace(0.5, 2, weight.shape[1]))


SAFETENSORS: dict[str, tuple[Store, Callable[[str], bool], int]] = {
    # store, which layers, how many of the 29 linears that makes
    "bfl fp8": (quantised.float8, _in_blocks, 22),
    "bfl fp8 of some layers": (quantised.float8, _some, 16),
    "fp8 per row": (quantised.row_float8, _in_blocks, 22),
    "comfyui mixed": (_mixed, _every_linear, 31),
    "comfyui e5m2": (_e5m2, _in_blocks, 22),
    "old scaled_fp8": (quantised.old_float8, _in_blocks, 22),
    "nvfp4": (quantised.nvfp4, _in_blocks, 22),
    "nvfp4 with column scales": (_doubled_columns, _in_blocks, 22),
    "block-wise fp8": (quantised.block_float8, _in_blocks, 22),
}


def _stored(pipeline: Sampler, component: str) -> list[StoredLinear]:
    modules = pipeline.residents.use(component).modules()
    return [module for module in modules if isinstance(module, StoredLinear)]


def _bfl_state(parts: Parts) -> State:
    return split_files.transformer_as_bfl(_saved_transformer(parts))


def _saved_transformer(parts: Parts) -> State:
    return load_file(parts.folder / "transformer/diffusion_pytorch_model.safetensors")


def _expected_from(parts: Parts, dense: State) -> NDArray[np.int64]:
    """diffusers' picture with a transformer of these weights, given under BFL's names."""
    state = {name: torch.cat(part) for name, part in to_diffusers(dense, TRANSFORMER).items()}
    parts.oracle.transformer.load_state_dict(state)
    return _expected(parts.oracle)


@pytest.mark.parametrize("name", SAFETENSORS)
def test_transformer_paints_the_dequantised_picture(
    parts: Parts, tmp_path: Path, name: str
) -> None:
    store, chosen, count = SAFETENSORS[name]
    file, dense = _quantised(_bfl_state(parts), store, chosen)
    if name == "old scaled_fp8":
        file["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
        file = {"model.diffusion_model." + key: value for key, value in file.items()}
    metadata = {}
    if name == "bfl fp8":
        layers = {key.removesuffix(".weight_scale") for key in file if "weight_scale" in key}
        formats = {layer: {"format": "float8_e4m3fn"} for layer in sorted(layers)}
        text = json.dumps({"format_version": "1.0", "layers": formats})
        metadata["_quantization_metadata"] = text
    save_file(file, tmp_path / "klein.safetensors", metadata)
    pipeline = load_sampler(
        tmp_path / "klein.safetensors", components=parts.components(), device="cpu", dtype="float32"
    )
    assert len(_stored(pipeline, "transformer")) == count
    expected = _expected_from(parts, dense)
    _assert_close(_painted(pipeline), expected)
    # what was lost in the numbers shows in the picture, so a scale left out would too
    assert np.abs(expected - _expected_from(parts, _bfl_state(parts))).max() > 1


def _write_gguf(path: Path, architecture: str, state: State, name: str, prefix: str = "") -> State:
    """A GGUF file with one type for every matrix that it fits, and the state it stands for."""
    writer = gguf.GGUFWriter(path, architecture)
    kind = gguf.GGMLQuantizationType[name]
    block = gguf.GGML_QUANT_SIZES[kind][0]
    dense: State = {}
    for key, tensor in state.items():
        if tensor.dim() < 2:
            data, dense[key] = tensor.float().numpy(), tensor.float()
            writer.add_tensor(prefix + key, data)
        elif name in ("F16", "F32"):
            dense[key] = tensor.half().float() if name == "F16" else tensor
            data = tensor.half().numpy() if name == "F16" else tensor.numpy()
            writer.add_tensor(prefix + key, np.ascontiguousarray(data))
        else:
            fits = tensor.shape[1] % block == 0
            chosen = name if fits else "BF16"
            raw, dense[key] = quantised.gguf_blocks(tensor.contiguous(), chosen)
            raw_type = gguf.GGMLQuantizationType[chosen]
            writer.add_tensor(prefix + key, raw, raw_dtype=raw_type)
    if architecture == "qwen3":
        # a published text encoder carries its tokenizer along
        writer.add_token_list(["a", "bc", "def"])
        writer.add_token_types([1, 1, 2])
        writer.add_array("tokenizer.ggml.scores", [0.5, 1.0])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return dense


GGUF_TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
GGUF_TYPES += ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
GGUF_TYPES += ["IQ4_NL", "IQ4_XS", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_S"]
GGUF_TYPES += ["IQ1_M", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"]


@pytest.mark.parametrize("name", GGUF_TYPES)
def test_gguf_transformer_paints_the_dequantised_picture(
    parts: Parts, tmp_path: Path, name: str
) -> None:
    file = tmp_path / f"klein-{name}.gguf"
    prefix = "model.diffusion_model." if name == "Q8_0" else ""
    dense = _write_gguf(file, "flux", _bfl_state(parts), name, prefix)
    pipeline = load_sampler(file, components=parts.components(), device="cpu", dtype="float32")
    is_plain = name in ("F32", "F16", "BF16")
    # one or two layers have rows that are no whole number of the larger blocks
    num_stored = len(_stored(pipeline, "transformer"))
    if GGUF_TYPES.index(name) < GGUF_TYPES.index("IQ4_NL"):
        assert num_stored == (0 if is_plain else 31 - (2 if "K" in name else 0))
    else:
        assert 29 <= num_stored <= 31
    _assert_close(_painted(pipeline), _expected_from(parts, dense))


def test_fp8_without_scales_is_used_and_warned_of(
    parts: Parts, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Every tensor cast, norms too, as community merges are."""
    state = _bfl_state(parts)
    file, dense = {}, {}
    for name, tensor in state.items():
        codes = quantised.plain_float8(tensor.float()[None].flatten(0, -2))
        shape = tensor.shape
        file[name] = codes[0]["weight"].view(torch.uint8).view(shape).view(torch.float8_e4m3fn)
        dense[name] = codes[1].view(shape)
    save_file(file, tmp_path / "merge.safetensors")
    with caplog.at_level(logging.WARNING, "kleinod.weights"):
        pipeline = load_sampler(
            tmp_path / "merge.safetensors",
            components=parts.components(),
            device="cpu",
            dtype="float32",
            offload="model",
        )
        pipeline.residents.use("transformer")
    lines = [record.message for record in caplog.records if "float8" in record.message]
    assert len(lines) == 1
    assert "the float8 layers (31) have no scales" in lines[0] and "may be poor" in lines[0]
    _assert_close(_painted(pipeline), _expected_from(parts, dense))


def test_fp8_in_the_diffusers_layout(parts: Parts, tmp_path: Path) -> None:
    """q, k and v with a scale each, one of them left in bfloat16; the swapped last modulation."""

    def chosen(name: str) -> bool:
        return ("blocks.0" in name and "to_v" not in name) or "norm_out.linear" in name

    file, dense = _quantised(_saved_transformer(parts), quantised.float8, chosen)
    folder = tmp_path / "transformer"
    folder.mkdir()
    save_file(file, folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text((parts.folder / "transformer/config.json").read_text())
    (tmp_path / "model_index.json").write_text('{"is_distilled": true}')
    pipeline = load_sampler(tmp_path, components=parts.components(), device="cpu", dtype="float32")
    linears = _stored(pipeline, "transformer")
    assert [len(linear.parts) for linear in linears].count(3) == 2
    parts.oracle.transformer.load_state_dict(dense)
    _assert_close(_painted(pipeline), _expected(parts.oracle))


@pytest.mark.parametrize("name", ["bfl fp8", "nvfp4", "block-wise fp8"])
def test_bfloat16_picture_is_that_of_the_rounded_weights(
    parts: Parts, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The expanded weight is rounded once: what is painted is the bfloat16 file's picture.

    Within one grey level and not zero: fewer rows are multiplied at once, so a sum may round to
    the other side; seen: 0. Products of weights that are not expanded may end in what comes next,
    where sums have another order: not here. A processor without bfloat16 GEMMs expands weights to
    float32 without rounding them: another picture, close by; seen: 5.
    """
    monkeypatch.setattr(TiledColumns, "_rows", lambda *_: None)
    file, dense = _quantised(_bfl_state(parts), SAFETENSORS[name][0], _in_blocks)
    save_file(file, tmp_path / "klein.safetensors")
    wide = {key: tensor.bfloat16() for key, tensor in dense.items()}
    save_file(wide, tmp_path / "wide.safetensors")
    mine, theirs = (
        _painted(load_sampler(tmp_path / file, components=parts.components(), device="cpu"))
        for file in ("klein.safetensors", "wide.safetensors")
    )
    is_rounded = product_dtype(torch.bfloat16, torch.device("cpu")) == torch.bfloat16
    assert np.abs(mine - theirs).max() <= (1 if is_rounded else 12)


# -- text encoders -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide_text(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """A text encoder of width 256 and the transformer that reads it."""
    torch.manual_seed(2)
    oracle = tiny.oracle()
    text_encoder = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=300,
            hidden_size=256,
            intermediate_size=256,
            num_hidden_layers=28,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=64,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
            tie_word_embeddings=False,
        )
    ).eval()
    transformer = tiny.transformer(context=768).eval()
    oracle.register_modules(text_encoder=text_encoder, transformer=transformer)
    folder = tmp_path_factory.mktemp("text")
    oracle.save_pretrained(folder)
    return Parts(oracle, folder)


TEXT_STORES: dict[str, Store] = {
    "comfyui mixed": _mixed,
    "qwen block-wise, bfloat16": quantised.block_float8,
    "qwen block-wise, float32": _wide_scales,
    "old scaled_fp8": quantised.old_float8,
}


def _text_state(wide_text: Parts) -> State:
    return load_file(wide_text.folder / "text_encoder/model.safetensors")


def _load_text(wide_text: Parts, file: Path) -> Sampler:
    return load_sampler(
        wide_text.folder,
        components=Components(text_encoder=file),
        device="cpu",
        dtype="float32",
    )


@pytest.mark.parametrize(
    ("name", "has_head"), list(zip(TEXT_STORES, (True, False) * 2, strict=True))
)
def test_text_encoder_reads_the_dequantised_prompt(
    wide_text: Parts, tmp_path: Path, name: str, has_head: bool
) -> None:
    """In a single file; in those with a head the table of tokens is quantised too."""
    state = _text_state(wide_text)
    head = state.pop("lm_head.weight")
    chosen = _every_linear if has_head else lambda key: "layers." in key
    file, dense = _quantised(state, TEXT_STORES[name], chosen)
    if has_head:
        file["lm_head.weight"] = head.bfloat16()
    save_file(file, tmp_path / "qwen_3.safetensors")
    pipeline = _load_text(wide_text, tmp_path / "qwen_3.safetensors")
    assert len(_stored(pipeline, "text_encoder")) == 27 * 7
    table = pipeline.residents.use("text_encoder").model.embed_tokens
    assert isinstance(table, StoredEmbedding) == has_head
    wide_text.oracle.text_encoder.load_state_dict(dense | {"lm_head.weight": head})
    _assert_close(_painted(pipeline), _expected(wide_text.oracle))


LLAMA_CPP = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _as_llama_cpp(state: State) -> State:
    result = {}
    for key, tensor in state.items():
        words = key.split(".")
        if words[:2] == ["model", "layers"]:
            result[f"blk.{words[2]}.{LLAMA_CPP['.'.join(words[3:-1])]}.weight"] = tensor
        else:
            names = {"embed_tokens": "token_embd", "norm": "output_norm", "lm_head": "output"}
            result[names[words[-2]] + ".weight"] = tensor
    return result


@pytest.mark.parametrize(
    ("name", "has_head"), [("F16", True), ("Q8_0", False), ("Q4_K", True), ("Q6_K", False)]
)
def test_gguf_text_encoder_reads_the_dequantised_prompt(
    wide_text: Parts, tmp_path: Path, name: str, has_head: bool
) -> None:
    state = _text_state(wide_text)
    head = state["lm_head.weight"] if has_head else state.pop("lm_head.weight")
    file = tmp_path / "qwen3.gguf"
    named = _write_gguf(file, "qwen3", _as_llama_cpp(state), name)
    back = dict(zip(_as_llama_cpp(state), state, strict=True))
    dense = {"lm_head.weight": head} | {back[key]: tensor for key, tensor in named.items()}
    pipeline = _load_text(wide_text, file)
    table = pipeline.residents.use("text_encoder").model.embed_tokens
    assert isinstance(table, nn.Embedding if name == "F16" else StoredEmbedding)
    wide_text.oracle.text_encoder.load_state_dict(dense)
    _assert_close(_painted(pipeline), _expected(wide_text.oracle))


def test_stored_bytes_lie_in_the_file(parts: Parts, tmp_path: Path) -> None:
    """Of FP8, NVFP4 and GGUF alike, whatever the dtype; scales of one number aside."""
    files = [tmp_path / "mixed.safetensors", tmp_path / "blocks.gguf"]
    save_file(_quantised(_bfl_state(parts), _mixed, _in_blocks)[0], files[0])
    _write_gguf(files[1], "flux", _bfl_state(parts), "Q4_K")
    for file in files:
        pipeline = load_sampler(file, components=parts.components(), device="cpu")
        weights = [
            module
            for module in pipeline.residents.use("transformer").modules()
            if isinstance(module, StoredWeight)
        ]
        assert len(weights) > 20
        for weight in weights:
            for tensor in weight.buffers():
                assert tensor.numel() == 1 or _is_mapped(tensor, file)


def _is_mapped(tensor: Tensor, file: Path) -> bool:
    for line in Path("/proc/self/maps").read_text().splitlines():
        low, high = (int(end, 16) for end in line.split()[0].split("-"))
        if low <= tensor.data_ptr() < high:
            return line.endswith(str(file))
    return False


def test_plain_files_hold_no_stored_weights(parts: Parts) -> None:
    pipeline = load_sampler(parts.folder, device="cpu", dtype="float32")
    assert not _stored(pipeline, "transformer") and not _stored(pipeline, "text_encoder")
    modules = pipeline.residents.use("transformer").modules()
    assert any(isinstance(module, JoinedLinear) for module in modules)
