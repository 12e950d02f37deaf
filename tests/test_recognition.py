"""What files seem to be: klein of every size and format, its parts, adapters, others' models."""

from pathlib import Path

import diffusers
import published
import pytest
import tiny
import torch
import transformers
from header_files import header_of, write_sparse
from published import KLEIN_9B, as_fp8, as_nvfp4, entry, klein, of_module
from torch import nn

from kleinod.weights import identify_lora
from kleinod.weights.headers import TensorEntry, read_header
from kleinod.weights.identify import Finding, recognise
from kleinod.weights.inspect_model import Part, read_part


def _entries(tensors: published.Entries) -> dict[str, TensorEntry]:
    return {
        name: TensorEntry(value["dtype"], tuple(value["shape"]), *value["data_offsets"])
        for name, value in header_of(tensors).items()
    }


def _found(tensors: published.Entries) -> Finding:
    return recognise(_entries(tensors))


def _part(tensors: published.Entries, tmp_path: Path) -> Part:
    return read_part(write_sparse(tmp_path / "file.safetensors", tensors))


# klein's transformer


@pytest.mark.parametrize(
    ("tensors", "size", "num_tensors", "parameters", "num_bytes"),
    [
        (klein(), "4B", 149, 3_875_544_576, 7_751_089_152),
        (klein(**KLEIN_9B), "9B", 201, 9_078_581_248, 18_157_162_496),
        (as_fp8(klein()), "4B", 149 + 160, 3_875_544_576, 4_070_588_032),
        (as_fp8(klein(**KLEIN_9B)), "9B", 201 + 224, 9_078_581_248, 9_433_011_072),
    ],
)  # the numbers are klein-facts' A.1 and B.1
def test_published_kleins_are_known(
    tensors: published.Entries,
    size: str,
    num_tensors: int,
    parameters: int,
    num_bytes: int,
    tmp_path: Path,
) -> None:
    part = _part(tensors, tmp_path)
    assert part.finding.title == f"FLUX.2 klein {size} transformer"
    assert (part.finding.layout, part.container, part.notes) == ("BFL", "safetensors", ())
    assert (len(part.entries), part.parameters, part.num_bytes) == (
        num_tensors,
        parameters,
        num_bytes,
    )


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model."])
def test_a_prefix_changes_nothing(prefix: str) -> None:
    plain = _found(klein())
    assert _found({prefix + name: value for name, value in klein().items()}) == plain


def test_diffusers_layout_of_the_real_size() -> None:
    with torch.device("meta"):
        model = diffusers.Flux2Transformer2DModel(
            in_channels=128, num_layers=5, num_single_layers=20, attention_head_dim=128,
            num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False,
        )  # fmt: skip
    found = _found(of_module(model))
    assert (found.title, found.layout) == ("FLUX.2 klein 4B transformer", "diffusers")
    assert found.numbers == _found(klein()).numbers


def test_another_size_is_klein_like_and_says_its_sizes() -> None:
    found = _found(of_module(tiny.transformer()))
    assert found.title == "FLUX.2 klein transformer"
    assert found.notes == ("not a published size: 2+3 blocks of width 64",)


@pytest.mark.parametrize(
    "tensors",
    [
        klein(6144, 8, 48, 15360),
        klein() | {"guidance_in.in_layer.weight": entry("BF16", 3072, 256)},
    ],
)
def test_dev_is_not_klein(tensors: published.Entries) -> None:
    found = _found(tensors)
    assert found.title == "FLUX.2 dev transformer" and not found.is_klein
    assert "not run here" in found.notes[0]


# Number formats


def _formats(tensors: published.Entries, tmp_path: Path) -> dict[str, dict[str, int]]:
    return {group.name: dict(group.formats) for group in _part(tensors, tmp_path).groups}


def test_formats_are_counted_by_group(tmp_path: Path) -> None:
    assert _formats(as_fp8(klein()), tmp_path) == {
        "embedders": {"BF16": 4},
        "modulation": {"BF16": 3},
        "final layer": {"BF16": 2},
        "norms": {"BF16": 60},
        "double blocks": {"FP8 e4m3, scaled": 40},
        "single blocks": {"FP8 e4m3, scaled": 40},
    }


def test_nvfp4_counts_two_numbers_in_a_byte(tmp_path: Path) -> None:
    part = _part(as_nvfp4(klein()), tmp_path)
    assert part.parameters == 3_875_544_576
    assert {g.name: dict(g.formats) for g in part.groups}["single blocks"] == {"NVFP4": 40}


def test_fp8_without_scales_is_warned_of(tmp_path: Path) -> None:
    some = _part(as_fp8(klein(), num_without_scale=3), tmp_path)
    assert "3 FP8 weights have no scale, 77 others have one" in some.notes[0]
    none = _part(as_fp8(klein(), num_without_scale=80), tmp_path)
    assert "80 FP8 weights have no scale: a plain cast" in none.notes[0]


def test_older_scales_and_block_scales_are_scales(tmp_path: Path) -> None:
    tensors = {
        "double_stream_modulation_img.lin.weight": entry("F8_E4M3", 128, 128),
        "double_stream_modulation_img.lin.scale_weight": entry("F32"),
        "double_stream_modulation_txt.lin.weight": entry("F8_E4M3", 256, 128),
        "double_stream_modulation_txt.lin.weight_scale_inv": entry("BF16", 2, 1),
        "scaled_fp8": entry("F8_E4M3", 2),
    }
    assert _formats(tensors, tmp_path) == {
        "modulation": {"FP8 e4m3, scaled": 1, "FP8 e4m3, a scale per block": 1}
    }


# Text encoders and autoencoders


def _qwen(hidden: int, intermediate: int, *, tied: bool) -> nn.Module:
    config = transformers.Qwen3Config(
        vocab_size=151936, hidden_size=hidden, intermediate_size=intermediate,
        num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8, head_dim=128,
        tie_word_embeddings=tied,
    )  # fmt: skip
    with torch.device("meta"):
        return transformers.Qwen3ForCausalLM(config)


@pytest.mark.parametrize(
    ("hidden", "intermediate", "size", "user"),
    [(2560, 9728, "4B", "4B"), (4096, 12288, "8B", "9B")],
)
def test_qwen3_is_known_with_its_size(hidden: int, intermediate: int, size: str, user: str) -> None:
    found = _found(of_module(_qwen(hidden, intermediate, tied=False)))
    assert found.title == f"Qwen3 {size} text encoder"
    assert found.notes == (f"the text encoder of klein {user}",)
    assert found.numbers == {"width": hidden, "layers": 36, "vocabulary": 151936}


def test_qwen3_of_another_size_belongs_to_no_klein() -> None:
    found = _found(of_module(tiny.text_encoder()))
    assert found.title == "Qwen3 text encoder" and found.notes == ("of no published klein",)


def test_gguf_files_are_known(tmp_path: Path) -> None:
    shapes = {name: shape for name, (_, shape, _) in klein().items()}
    part = read_part(published.write_sparse_gguf(tmp_path / "a.gguf", shapes, "flux"))
    assert part.finding.title == "FLUX.2 klein 4B transformer"
    assert part.container == "gguf" and part.parameters == 3_875_544_576
    groups = {group.name: dict(group.formats) for group in part.groups}
    assert groups["double blocks"] == {"Q8_0": 40} and groups["norms"] == {"F32": 60}
    names = {"token_embd.weight": (151936, 2560)}
    for n in range(36):
        names |= {
            f"blk.{n}.attn_norm.weight": (2560,),
            f"blk.{n}.attn_q_norm.weight": (128,),
            f"blk.{n}.attn_q.weight": (4096, 2560),
        }
    part = read_part(published.write_sparse_gguf(tmp_path / "b.gguf", names, "qwen3"))
    assert (part.finding.title, part.finding.layout) == ("Qwen3 4B text encoder", "llama.cpp")


@pytest.mark.parametrize(
    ("decoder", "size"),
    [(None, "full decoder"), ((96, 192, 384, 384), "small decoder")],
)
def test_klein_autoencoders_are_known(decoder: tuple[int, ...] | None, size: str) -> None:
    with torch.device("meta"):
        model = diffusers.AutoencoderKLFlux2(decoder_block_out_channels=decoder)
    found = _found(of_module(model))
    assert found.title == f"FLUX.2 {size} autoencoder" and found.is_klein
    assert found.numbers["finest_width"] == (96 if decoder else 128)


# What is not klein


def _unet(context: int) -> nn.Module:
    return diffusers.UNet2DConditionModel(
        block_out_channels=(32, 64), cross_attention_dim=context, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), attention_head_dim=8,
    )  # fmt: skip


def _flux1() -> nn.Module:
    return diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1)


def _t5() -> nn.Module:
    return transformers.T5EncoderModel(transformers.T5Config(num_layers=1, vocab_size=100))


def _clip() -> nn.Module:
    return transformers.CLIPTextModel(transformers.CLIPTextConfig(num_hidden_layers=1))


def _qwen2() -> nn.Module:
    return transformers.Qwen2ForCausalLM(
        transformers.Qwen2Config(num_hidden_layers=1, vocab_size=100)
    )


@pytest.mark.parametrize(
    ("build", "title"),
    [
        (_flux1, "FLUX.1 transformer"),
        (lambda: _unet(2048), "SDXL U-Net"),
        (lambda: _unet(768), "SD 1.5 U-Net"),
        (lambda: diffusers.SD3Transformer2DModel(num_layers=2), "SD 3 transformer"),
        (_t5, "T5 text encoder"),
        (_clip, "CLIP text encoder"),
        (_qwen2, "Llama, Mistral or Qwen2 text encoder"),
        (
            lambda: diffusers.AutoencoderKL(latent_channels=4),
            "SD 1.5 or SDXL autoencoder",
        ),
        (
            lambda: diffusers.AutoencoderKL(latent_channels=16),
            "FLUX.1 or SD 3 autoencoder",
        ),
        (lambda: nn.Linear(3, 3), "tensors of no kind that is known here"),
    ],
)
def test_others_are_named(build, title: str) -> None:  # noqa: ANN001
    with torch.device("meta"):
        found = _found(of_module(build()))
    assert found.title == title and not found.is_klein


@pytest.mark.parametrize(
    ("names", "title"),
    [
        (["double_blocks.0.img_mod.lin.weight"], "FLUX.1 transformer"),
        (["joint_blocks.0.context_block.attn.qkv.weight"], "SD 3 transformer"),
        (["blocks.0.cross_attn.q.weight"], "Wan transformer"),
        (["noise_refiner.0.attention.qkv.weight"], "Z-Image or Lumina transformer"),
        (["transformer_blocks.0.img_mod.1.weight"], "Qwen-Image transformer"),
        (["double_blocks.0.img_attn_qkv.weight"], "HunyuanVideo transformer"),
    ],
)
def test_others_are_named_by_their_names(names: list[str], title: str) -> None:
    assert _found({name: entry("BF16", 8, 8) for name in names}).title == title


def test_a_whole_stable_diffusion_checkpoint_is_named() -> None:
    key = "model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
    tensors = {
        "model.diffusion_model.input_blocks.0.0.weight": entry("F16", 320, 4, 3, 3),
        key: entry("F16", 640, 2048),
        "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias": entry("F16", 8),
        "first_stage_model.decoder.conv_in.weight": entry("F16", 512, 4, 3, 3),
    }
    assert _found(tensors).title == "SDXL checkpoint"
    tensors[key] = entry("F16", 640, 768)
    assert _found(tensors).title == "SD 1.5 checkpoint"


# Adapters


def _pairs(modules: dict[str, tuple[int, int]], suffixes: tuple[str, str], rank: int = 16):  # noqa: ANN202
    """Factors of modules {name: (in, out)}."""
    first, second = suffixes
    return {name + first: entry("BF16", rank, read) for name, (read, _) in modules.items()} | {
        name + second: entry("BF16", written, rank) for name, (_, written) in modules.items()
    }


AB, DOWN_UP = (".lora_A.weight", ".lora_B.weight"), (".lora_down.weight", ".lora_up.weight")
H, W = 3072, 4096
LORAS = [
    ("transformer.transformer_blocks.0.attn.to_q", (H, H), AB,
     "LoRA, diffusers' names under transformer.", "4B"),
    ("transformer.single_transformer_blocks.19.attn.to_qkv_mlp_proj", (W, 9 * W), AB,
     "LoRA, diffusers' names under transformer.", "9B"),
    ("single_transformer_blocks.0.attn.to_out", (4 * H, H),
     (".lora_A.default.weight", ".lora_B.default.weight"), "LoRA, diffusers' names, bare", "4B"),
    ("diffusion_model.double_blocks.4.img_attn.qkv", (H, 3 * H), AB,
     "LoRA, BFL's names under diffusion_model.", "4B"),
    ("double_blocks.0.txt_mlp.2", (3 * W, W), AB, "LoRA, BFL's names, bare", "9B"),
    ("base_model.model.single_blocks.0.linear1", (H, 9 * H), AB,
     "LoRA, BFL's names under base_model.model.", "4B"),
    ("lora_unet_double_blocks_0_img_mlp_0", (H, 6 * H), DOWN_UP, "LoRA, Kohya (lora_unet_)", "4B"),
    ("lora_unet_single_blocks_0_linear2", (4 * W, W), DOWN_UP, "LoRA, Kohya (lora_unet_)", "9B"),
    ("lora_transformer_transformer_blocks_0_ff_linear_in", (H, 6 * H), DOWN_UP,
     "LoRA, OneTrainer (lora_transformer_)", "4B"),
]  # fmt: skip


@pytest.mark.parametrize(("module", "sizes", "suffixes", "convention", "size"), LORAS)
def test_klein_loras_are_known(
    module: str, sizes: tuple[int, int], suffixes: tuple[str, str], convention: str, size: str
) -> None:
    found = _found(_pairs({module: sizes}, suffixes))
    assert found.title == f"FLUX.2 klein {size} LoRA" and not found.is_klein
    assert found.layout == convention
    assert found.numbers == {"num_modules": 1, "rank": 16}


def test_an_adapter_of_shared_modulation_is_kleins() -> None:
    modules = {"diffusion_model.single_stream_modulation.lin": (H, 3 * H)}
    modules["diffusion_model.double_blocks.0.img_attn.proj"] = (H, H)
    assert _found(_pairs(modules, AB)).title == "FLUX.2 klein 4B LoRA"


@pytest.mark.parametrize(
    ("parts", "kind"),
    [
        ({"lokr_w1": (4, 4), "lokr_w2": (4608, 768)}, "LoKr"),
        ({"lokr_w1": (4, 4), "lokr_w2_a": (4608, 8), "lokr_w2_b": (8, 768)}, "LoKr"),
        ({"hada_w1_a": (18432, 8), "hada_w1_b": (8, 3072)}, "LoHa"),
        ({"diff": (18432, 3072)}, "whole differences"),
        ({"lora_A": (8, 3072), "lora_B": (18432, 8), "dora_scale": (18432, 1)}, "LoRA + DoRA"),
    ],
)
def test_other_kinds_of_adapters(parts: dict[str, tuple[int, int]], kind: str) -> None:
    stem = "lycoris_transformer_blocks_0_ff_linear_in"
    found = _found({f"{stem}.{part}": entry("BF16", *shape) for part, shape in parts.items()})
    assert found.layout == f"{kind}, LyCORIS (lycoris_)"
    assert found.title == "FLUX.2 klein 4B LoRA"


def test_a_lora_of_flux1_is_not_taken_for_kleins() -> None:
    for module, sizes in (
        ("lora_unet_double_blocks_0_img_mlp_0", (H, 4 * H)),
        ("lora_unet_single_blocks_0_linear1", (H, 7 * H)),
        ("lora_unet_double_blocks_18_img_attn_qkv", (H, 3 * H)),
        ("transformer.single_transformer_blocks.37.attn.to_q", (H, H)),
        ("transformer.single_transformer_blocks.0.proj_mlp", (H, 4 * H)),
    ):
        suffixes = DOWN_UP if module.startswith("lora_unet") else AB
        assert _found(_pairs({module: sizes}, suffixes)).title == "FLUX.1 LoRA", module


def test_a_lora_that_fits_two_bases_says_so() -> None:
    found = _found(_pairs({"transformer.transformer_blocks.0.attn.to_q": (H, H)}, AB))
    assert "alike in klein 4B and FLUX.1" in found.notes[0]


def test_loras_of_others_are_named() -> None:
    for name, context, base in (("SDXL", 2048, "SDXL"), ("1.5", 768, "SD 1.5")):
        stem = "lora_unet_input_blocks_4_1_transformer_blocks_0_attn2_to_k"
        assert _found(_pairs({stem: (context, 640)}, DOWN_UP)).family == base, name
    stem = "diffusion_model.blocks.0.cross_attn.q"
    assert _found(_pairs({stem: (5120, 5120)}, AB)).title == "an unknown base LoRA"
    dev = _pairs({"diffusion_model.single_blocks.0.linear1": (6144, 9 * 6144)}, AB)
    assert _found(dev).title == "FLUX.2 dev LoRA"


def test_malformed_names_and_alpha_are_noted() -> None:
    tensors = _pairs({"diffusion_model.double_blocks.0.img_attn_qkv": (H, 3 * H)}, AB)
    tensors["diffusion_model.double_blocks.0.img_attn_qkv.alpha"] = entry("F32")
    found = _found(tensors)
    assert any("malformed" in note for note in found.notes)
    assert any("alpha" in note for note in found.notes)


def test_a_model_is_no_adapter() -> None:
    assert identify_lora.recognised(_entries(klein())) is None


def test_recognition_reads_the_header_only(tmp_path: Path) -> None:
    path = write_sparse(tmp_path / "a.safetensors", klein(**KLEIN_9B))
    assert path.stat().st_blocks * 512 < 1_000_000 < path.stat().st_size
    assert recognise(read_header(path).tensors).size == "9B"
