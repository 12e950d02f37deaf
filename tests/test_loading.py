"""Every layout gives the same weights as the diffusers folder; every flaw gives one clear line."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import split_files
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kleinod import catalog
from kleinod.compute.matmul import JoinedLinear
from kleinod.config import TextEncoderConfig
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, WeightsError
from kleinod.quantization.stored import StoredLinear, StoredWeight
from kleinod.request import Components
from kleinod.weights import build

CPU = torch.device("cpu")
FIELDS = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 3}
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("klein"))


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A folder that may be spoilt."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def _whole(module: nn.Module) -> dict[str, Tensor]:
    """The state, with joined weights joined."""
    state = module.state_dict()
    for name, child in module.named_modules():
        if isinstance(child, JoinedLinear):
            parts = [state.pop(f"{name}.parts.{i}") for i in range(len(child.parts))]
            state[f"{name}.weight"] = torch.cat(parts)
        elif isinstance(child, StoredLinear):
            # a processor without bfloat16 GEMMs keeps pieces that are expanded where they are used
            own = [key for key in state if key.startswith(f"{name}.parts.")]
            dtype = state[own[0]].dtype
            for key in own:
                del state[key]
            state[f"{name}.weight"] = torch.cat([_expanded(part, dtype) for part in child.parts])
    return state


def _expanded(part: StoredWeight, dtype: torch.dtype) -> Tensor:
    out = torch.empty(*part.shape, dtype=dtype)
    part.fill(out, slice(None))
    return out


def _assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    ours, expected = _whole(mine), _whole(theirs)
    assert ours.keys() == expected.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, expected[name]), name


def _transformer(path: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    return build.open_transformer(path).filled(CPU, dtype)


def test_shards_equal_the_single_file(folder: Path, tmp_path: Path) -> None:
    oracle = tiny.oracle().transformer
    oracle.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    _assert_same(_transformer(tmp_path), _transformer(folder / "transformer"))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_bfl_single_file_equals_the_folder(
    folder: Path, tmp_path: Path, prefix: str, dtype: torch.dtype
) -> None:
    state = split_files.transformer_as_bfl(load_file(folder / TRANSFORMER))
    file = tmp_path / "flux-2-klein.safetensors"
    save_file({prefix + n: t.to(dtype).contiguous() for n, t in state.items()}, file)
    mine, theirs = _transformer(file, dtype), _transformer(folder / "transformer", dtype)
    assert mine.config == theirs.config
    _assert_same(mine, theirs)


@pytest.mark.parametrize("decoder_dims", [None, (32, 32, 32, 32)], ids=["full", "small"])
@pytest.mark.parametrize("layout", ["bfl", "diffusers"])
def test_single_autoencoder_file_equals_the_oracle(
    tmp_path: Path, layout: str, decoder_dims: tuple[int, ...] | None
) -> None:
    oracle = tiny.autoencoder(decoder_dims)
    state = oracle.state_dict()
    state = split_files.autoencoder_as_bfl(state) if layout == "bfl" else state
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "ae.safetensors")
    mine = build.open_autoencoder(tmp_path / "ae.safetensors").filled(CPU, torch.float32)
    _assert_same(mine, oracle)
    assert mine.config.decoder_block_out_channels == decoder_dims


@pytest.mark.parametrize("is_tied", [True, False])
def test_single_text_encoder_file_tells_its_geometry(tmp_path: Path, is_tied: bool) -> None:
    oracle = tiny.text_encoder(is_tied=is_tied)
    state = {n: t for n, t in oracle.state_dict().items() if not (is_tied and "lm_head" in n)}
    save_file(state, tmp_path / "qwen.safetensors")
    module = build.open_text_encoder(tmp_path / "qwen.safetensors", (9, 18, 27))
    assert module.module.config == TextEncoderConfig(300, 32, 64, 29, 4, 2, 16)
    assert len(module.module.model.layers) == 27


def test_split_files_paint_the_folders_picture(folder: Path, tmp_path: Path) -> None:
    transformer = split_files.transformer_as_bfl(load_file(folder / TRANSFORMER))
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    save_file(transformer, tmp_path / "klein.safetensors")
    vae = split_files.autoencoder_as_bfl(vae)
    save_file({n: t.contiguous() for n, t in vae.items()}, tmp_path / "ae.safetensors")
    parts = Components(
        text_encoder=folder / "text_encoder/model.safetensors",
        autoencoder=tmp_path / "ae.safetensors",
        tokenizer=folder / "tokenizer",
    )
    split = load_sampler(
        tmp_path / "klein.safetensors", components=parts, device="cpu", dtype="float32"
    )
    whole = load_sampler(folder, device="cpu", dtype="float32")
    mine, theirs = (p.generate("a cat", **FIELDS).images[0].image for p in (split, whole))
    # q, k, v in one product or in three: float32 rounding may turn one last bit
    difference = np.asarray(mine, dtype=int) - np.asarray(theirs, dtype=int)
    assert np.abs(difference).max() <= 1


def test_mapped_weights_lie_in_the_file(folder: Path) -> None:
    module = _transformer(folder / "transformer")
    ranges = [
        [int(end, 16) for end in line.split()[0].split("-")]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if line.endswith(TRANSFORMER)
    ]
    for name, tensor in module.named_parameters():
        assert any(low <= tensor.data_ptr() < high for low, high in ranges), name


def test_another_dtype_gives_plain_linears(folder: Path) -> None:
    module = _transformer(folder / "transformer", torch.bfloat16)
    assert not any(isinstance(child, JoinedLinear) for child in module.modules())


@pytest.mark.parametrize(
    ("name", "titles", "variant", "message"),
    [
        ("flux-2-klein-base-4b", (), "base", "taken as base, which its name says"),
        ("klein", (), "distilled", "taken as distilled, which its name says"),
        ("mymodel", (), "distilled", "neither its name nor its contents say"),
        ("my-database", (), "distilled", "neither its name nor its contents say"),
        ("mymodel", ("", "Klein Base 4B"), "base", "taken as base, which its name says"),
    ],
)
def test_a_guessed_variant_is_told(
    tmp_path: Path, name: str, titles: tuple[str, ...], variant: str, message: str
) -> None:
    file = tmp_path / f"{name}.safetensors"
    file.touch()
    info = catalog.describe(file, file, titles=titles)
    assert info.is_distilled == (variant == "distilled")
    assert message in (catalog.guess_warning(file, file, titles=titles) or "")
    assert "does not say" not in message


def test_a_folder_and_a_known_name_are_no_guess(folder: Path) -> None:
    assert catalog.guess_warning(folder, folder) is None
    assert catalog.guess_warning("klein-base-4b", folder / "transformer") is None


def _spoil(file: Path, change) -> None:  # noqa: ANN001
    tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
    change(tensors)
    save_file(tensors, file)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("proj_out.weight"), "lacks tensor final_layer.linear.weight (1 in all)"),
        (
            lambda t: t.pop("transformer_blocks.0.attn.to_q.weight"),
            "lacks tensor double_blocks.0.img_attn.qkv.weight (1 in all)",
        ),
        (
            lambda t: t.update({"zz.lora_A": torch.ones(2), "zz.lora_B": torch.ones(2)}),
            "has the unknown tensor zz.lora_A (2 in all)",
        ),
        (
            lambda t: t.update({"x_embedder.weight": torch.ones(64, 64)}),
            "tensor img_in.weight has shape [64, 64], not [64, 128] (1 in all)",
        ),
    ],
    ids=["missing", "third missing", "unknown", "shape"],
)
def test_a_flawed_transformer_is_named(copy: Path, change, message: str) -> None:  # noqa: ANN001
    _spoil(copy / TRANSFORMER, change)
    with pytest.raises(WeightsError) as caught:
        load_sampler(copy, device="cpu")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_variant_beside_the_published_file_is_left_alone(folder: Path, copy: Path) -> None:
    half = {name: tensor.half() for name, tensor in load_file(copy / TRANSFORMER).items()}
    save_file(half, copy / "transformer/diffusion_pytorch_model.fp16.safetensors")
    _assert_same(_transformer(copy / "transformer"), _transformer(folder / "transformer"))


def test_a_tensor_in_two_files_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_file({"x.weight": torch.ones(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(WeightsError, match=r"x\.weight is in two files"):
        build.open_transformer(tmp_path)


def test_a_truncated_file_is_named(copy: Path) -> None:
    file = copy / TRANSFORMER
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="cut short"):
        load_sampler(copy, device="cpu")


@pytest.mark.parametrize("component", ["transformer", "vae", "text_encoder"])
def test_a_missing_component_is_named(copy: Path, component: str) -> None:
    shutil.rmtree(copy / component)
    with pytest.raises(InputError, match=f"{component}.* is missing"):
        load_sampler(copy, device="cpu")


def test_a_folder_without_tokenizer_says_how(copy: Path) -> None:
    shutil.rmtree(copy / "tokenizer")
    with pytest.raises(InputError, match="--tokenizer"):
        load_sampler(copy, device="cpu")


def test_no_model_is_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model_index\.json"):
        load_sampler(tmp_path, device="cpu")
    with pytest.raises(InputError, match="mini, klein-4b"):
        load_sampler("nothing-like-it", device="cpu")


def test_a_transformer_alone_asks_for_the_rest(folder: Path) -> None:
    with pytest.raises(InputError, match="give --text-encoder PATH"):
        load_sampler(folder / TRANSFORMER, device="cpu")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["../secret.safetensors"], "secret.safetensors', which is no .safetensors file beside"),
        (["/etc/passwd"], "passwd', which is no .safetensors file beside"),
        (
            ["model-00002-of-00002.safetensors"],
            "shard 'model-00002-of-00002.safetensors' is missing",
        ),
        ([7], "no weight_map"),
    ],
)
def test_a_bad_index_is_refused(tmp_path: Path, names: list[object], message: str) -> None:
    weight_map = {f"tensor{i}": name for i, name in enumerate(names)}
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(WeightsError, match=message):
        build.open_transformer(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_layers": 10**9}, "num_layers is 1000000000, which is not from 1 to 256"),
        ({"num_attention_heads": 0}, "num_attention_heads is 0"),
        ({"num_layers": "two"}, "num_layers is 'two'"),
        ({"axes_dims_rope": [8, "8"]}, "axes_dims_rope"),
    ],
)
def test_a_bad_config_is_refused(copy: Path, values: dict[str, object], message: str) -> None:
    file = copy / "transformer/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(WeightsError, match=message):
        load_sampler(copy, device="cpu")


@pytest.mark.parametrize("text", ["", "[]", "{"])
def test_an_unreadable_config_is_refused(copy: Path, text: str) -> None:
    (copy / "transformer/config.json").write_text(text)
    with pytest.raises(WeightsError, match=r"transformer/config\.json"):
        load_sampler(copy, device="cpu")


def test_another_sizes_text_encoder_is_named(copy: Path) -> None:
    tiny.transformer(context=120).save_pretrained(copy / "transformer")
    with pytest.raises(WeightsError, match="gives 96 numbers per token, the transformer reads 120"):
        load_sampler(copy, device="cpu")


def test_a_tokenizer_that_is_too_large_is_named(folder: Path) -> None:
    from kleinod.weights.folders import OWN_TOKENIZER

    with pytest.raises(WeightsError, match="has 151669 tokens, the text encoder 300"):
        load_sampler(folder, components=Components(tokenizer=OWN_TOKENIZER), device="cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu9"}, "device: tpu9"),
        ({"device": "meta"}, "device: meta"),
        ({"dtype": "int8"}, "dtype: 'int8'"),
        ({"dtype": "float16"}, "dtype: float16"),
        ({"offload": "half"}, "offload: 'half' is unknown"),
        ({"components": Components(autoencoder="/no/such")}, "autoencoder: /no/such"),
    ],
)
def test_a_bad_option_is_named(folder: Path, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_sampler(folder, **({"device": "cpu"} | options))


def test_other_models_are_told_apart(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_file({"guidance_in.in_layer.weight": torch.ones(2, 2)}, file)
    with pytest.raises(WeightsError, match=r"FLUX\.2-dev"):
        build.open_transformer(file)
    save_file({"input_blocks.0.weight": torch.ones(2, 2)}, file)
    with pytest.raises(
        WeightsError, match="is not a klein transformer but a Stable Diffusion U-Net"
    ):
        build.open_transformer(file)
    with pytest.raises(
        WeightsError, match="is not a Qwen3 text encoder but a Stable Diffusion U-Net"
    ):
        build.open_text_encoder(file, (9, 18, 27))
    with pytest.raises(
        WeightsError, match=r"is not a FLUX\.2 autoencoder but a Stable Diffusion U-Net"
    ):
        build.open_autoencoder(file)
