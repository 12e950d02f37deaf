"""Files of other programs: prefixes, checkpoints of several components, the decoder alone."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import split_files
import tiny
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from typer.testing import CliRunner

from kleinod.cli import app
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, WeightsError
from kleinod.request import Components
from kleinod.weights import build, prefixes
from kleinod.weights.folders import model_paths
from kleinod.weights.inspect_model import inspected, read_part

State = dict[str, Tensor]
CPU = torch.device("cpu")
LAYERS = (9, 18, 27)
FIELDS = {"width": 64, "height": 64, "num_inference_steps": 1, "seed": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("klein"))


@pytest.fixture(scope="module")
def states(folder: Path) -> dict[str, State]:
    """Each component under the names of the published single files."""
    vae = load_file(folder / "vae/diffusion_pytorch_model.safetensors")
    transformer = load_file(folder / "transformer/diffusion_pytorch_model.safetensors")
    return {
        "transformer": split_files.transformer_as_bfl(transformer),
        "diffusers": transformer,
        "autoencoder": split_files.autoencoder_as_bfl(vae),
        "vae": vae,
        "text_encoder": load_file(folder / "text_encoder/model.safetensors"),
    }


def _saved(path: Path, state: State) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


def _under(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


def _open(path: Path, component: str) -> nn.Module:
    if component == "text_encoder":
        return build.open_text_encoder(path, LAYERS).filled(CPU, torch.float32)
    is_transformer = component == "transformer"
    opened = (build.open_transformer if is_transformer else build.open_autoencoder)(path)
    return opened.filled(CPU, torch.float32)


def _assert_same(mine: nn.Module, theirs: nn.Module) -> None:
    ours, expected = mine.state_dict(), theirs.state_dict()
    assert ours.keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in ours.items())


PREFIXES = {
    "transformer": [
        "transformer.", "model.", "module.", "_orig_mod.", "net.", "unet.",
        "model.diffusion_model.", "diffusion_model.", "module._orig_mod.", "_orig_mod.module.",
        "module.model.diffusion_model.", "model.transformer.",
    ],
    "diffusers": ["transformer.", "module._orig_mod.", "model.diffusion_model."],
    "text_encoder": [
        "text_encoders.qwen3_4b.transformer.", "text_encoders.qwen3_8b.transformer.",
        "qwen3_4b.transformer.", "text_encoder.", "language_model.", "module.", "_orig_mod.",
        "module.language_model.", "cond_stage_model.transformer.",
    ],
    "autoencoder": ["vae.", "first_stage_model.", "module.", "_orig_mod.", "autoencoder.module."],
    "vae": ["vae.", "first_stage_model.", "_orig_mod."],
}  # fmt: skip
CASES = [(kind, prefix) for kind, several in PREFIXES.items() for prefix in several]
COMPONENT = {"diffusers": "transformer", "vae": "autoencoder"}


@pytest.mark.parametrize(("kind", "prefix"), CASES)
def test_a_known_prefix_changes_nothing(
    states: dict[str, State], tmp_path: Path, kind: str, prefix: str
) -> None:
    component = COMPONENT.get(kind, kind)
    plain = _saved(tmp_path / "plain.safetensors", states[kind])
    prefixed = _saved(tmp_path / "prefixed.safetensors", _under(prefix, states[kind]))
    _assert_same(_open(prefixed, component), _open(plain, component))
    assert read_part(prefixed).finding == read_part(plain).finding


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("model.", ""),
        ("model.", "model.language_model."),
        ("model.layers.", "model._orig_mod.layers."),
        ("model.layers.3.", "model.layers.3._checkpoint_wrapped_module."),
    ],
)
def test_a_language_model_may_be_wrapped(
    states: dict[str, State], tmp_path: Path, old: str, new: str
) -> None:
    state = {name.replace(old, new): tensor for name, tensor in states["text_encoder"].items()}
    plain = _saved(tmp_path / "plain.safetensors", states["text_encoder"])
    wrapped = _saved(tmp_path / "wrapped.safetensors", state)
    _assert_same(_open(wrapped, "text_encoder"), _open(plain, "text_encoder"))


def test_compiled_blocks_may_be_wrapped_one_by_one(
    states: dict[str, State], tmp_path: Path
) -> None:
    state = {
        name.replace("blocks.0.", "blocks.0._orig_mod."): tensor
        for name, tensor in states["transformer"].items()
    }
    plain = _saved(tmp_path / "plain.safetensors", states["transformer"])
    wrapped = _saved(tmp_path / "wrapped.safetensors", state)
    _assert_same(_open(wrapped, "transformer"), _open(plain, "transformer"))


@pytest.mark.parametrize("prefix", ["foo.", "ema.", "model_ema.", "mymodel.", "teacher.model."])
def test_an_unknown_prefix_is_refused(
    states: dict[str, State], tmp_path: Path, prefix: str
) -> None:
    file = _saved(tmp_path / "klein.safetensors", _under(prefix, states["transformer"]))
    with pytest.raises(WeightsError, match="is not a klein transformer: it lacks img_in"):
        build.open_transformer(file)
    both = states["transformer"] | _under(prefix, states["transformer"])
    _saved(file, {name: tensor.clone() for name, tensor in both.items()})
    with pytest.raises(WeightsError, match=rf"has the unknown tensor {prefix}"):
        build.open_transformer(file)


def test_a_tensor_under_two_prefixes_is_refused(states: dict[str, State], tmp_path: Path) -> None:
    state = dict(states["transformer"])
    state["module.img_in.weight"] = state["img_in.weight"].clone()
    file = _saved(tmp_path / "klein.safetensors", state)
    with pytest.raises(WeightsError, match=r"tensor img_in\.weight twice"):
        build.open_transformer(file)


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("text_encoder", "model.rotary_emb.inv_freq"),
        ("text_encoder", "model.layers.0.self_attn.rotary_emb.inv_freq"),
        ("text_encoder", "spiece_model"),
        ("text_encoder", "tokenizer_json"),
        ("text_encoder", "model.position_ids"),
        ("transformer", "position_ids"),
        ("transformer", "scaled_fp8"),
    ],
)
def test_harmless_tensors_are_left_aside(
    states: dict[str, State], tmp_path: Path, component: str, name: str
) -> None:
    plain = _saved(tmp_path / "plain.safetensors", states[component])
    more = _saved(tmp_path / "more.safetensors", states[component] | {name: torch.ones(4)})
    _assert_same(_open(more, component), _open(plain, component))


@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("text_encoder", "visual.patch_embed.weight"),
        ("text_encoder", "model.layers.0.self_attn.extra.weight"),
        ("transformer", "global.extra"),
        ("autoencoder", "decoder.mid.extra.weight"),
    ],
)
def test_any_other_tensor_is_an_error(
    states: dict[str, State], tmp_path: Path, component: str, name: str
) -> None:
    more = _saved(tmp_path / "more.safetensors", states[component] | {name: torch.ones(4, 4)})
    with pytest.raises(WeightsError, match=r"has the unknown tensor|another Qwen3"):
        _open(more, component)


@pytest.mark.parametrize("word", ["model.", "diffusion_model.", "text_encoders.a.", "_orig_mod."])
def test_a_hostile_name_takes_no_time(word: str) -> None:
    start = time.perf_counter()
    for end in ("x", "double_blocks.", "layers."):
        prefixes.split([word * 20_000 + end])
    assert time.perf_counter() - start < 5


# A checkpoint of several components


def _checkpoint(states: dict[str, State], *, without: str = "") -> State:
    parts = {
        "transformer": _under("model.diffusion_model.", states["transformer"]),
        "autoencoder": _under("vae.", states["autoencoder"]),
        "text_encoder": _under("text_encoders.qwen3_4b.transformer.", states["text_encoder"])
        | {"text_encoders.qwen3_4b.logit_scale": torch.ones(())},
    }
    return {
        name: tensor
        for component, state in parts.items()
        if component != without
        for name, tensor in state.items()
    }


def _pixels(model: Path, components: Components) -> np.ndarray:
    pipeline = load_sampler(model, components=components, device="cpu", dtype="float32")
    picture = pipeline.generate("a cat", **FIELDS).images[0].image
    return np.asarray(picture, dtype=int)


def test_a_checkpoint_paints_the_folders_picture(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    file = _saved(tmp_path / "all-in-one.safetensors", _checkpoint(states))
    tokenizer = folder / "tokenizer"
    mine = _pixels(file, Components(tokenizer=tokenizer))
    # q, k, v in one product or in three: float32 rounding may turn one last bit
    assert np.abs(mine - _pixels(folder, Components())).max() <= 1


def test_inspect_names_a_checkpoint(states: dict[str, State], tmp_path: Path) -> None:
    file = _saved(tmp_path / "klein.safetensors", _checkpoint(states))
    report = inspected(file)
    assert report.title == "FLUX.2 klein checkpoint" and report.missing == ()
    components = [part.finding.component for part in report.parts]
    assert components == ["transformer", "text_encoder", "autoencoder"]
    assert "holds transformer, text encoder and autoencoder" in report.notes
    numbers = sum(part.parameters for part in report.parts)
    assert numbers == sum(t.numel() for t in _checkpoint(states).values()) - 1  # logit_scale
    result = CliRunner().invoke(app, ["inspect", str(file)])
    assert result.stdout.strip().endswith(f'kleinod generate "a fox" --model {file}')


def test_what_a_checkpoint_lacks_is_asked_for(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    file = _saved(tmp_path / "klein.safetensors", _checkpoint(states, without="text_encoder"))
    with pytest.raises(InputError, match=r"without text encoder; give --text-encoder PATH"):
        load_sampler(file, device="cpu")
    assert inspected(file).missing == ("text_encoder",)
    given = Components(text_encoder=folder / "text_encoder", tokenizer=folder / "tokenizer")
    load_sampler(file, components=given, device="cpu")
    file = _saved(tmp_path / "other.safetensors", _checkpoint(states, without="transformer"))
    with pytest.raises(WeightsError, match="holds text encoder and autoencoder, no transformer"):
        load_sampler(file, device="cpu")


def test_a_given_component_wins_over_the_checkpoints(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    spoilt = {n: t.clone() for n, t in _checkpoint(states).items()}
    for name in spoilt:
        if name.startswith("vae.decoder") and name.endswith("weight"):
            spoilt[name].zero_()
    file = _saved(tmp_path / "klein.safetensors", spoilt)
    given = Components(autoencoder=folder / "vae", tokenizer=folder / "tokenizer")
    assert np.abs(_pixels(file, given) - _pixels(folder, Components())).max() <= 1


def test_a_component_may_be_taken_from_a_checkpoint(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    file = _saved(tmp_path / "klein.safetensors", _checkpoint(states))
    given = Components(text_encoder=file, autoencoder=file)
    assert np.abs(_pixels(folder, given) - _pixels(folder, Components())).max() <= 1


def test_an_unknown_tensor_in_a_checkpoint_is_an_error(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    for name in ("vae.extra.weight", "model.diffusion_model.extra", "elsewhere.extra"):
        file = _saved(tmp_path / "klein.safetensors", _checkpoint(states) | {name: torch.ones(2)})
        with pytest.raises(WeightsError, match=rf"has the unknown tensor {name}"):
            load_sampler(file, components=Components(tokenizer=folder / "tokenizer"), device="cpu")


# The decoder alone


def _decoder(states: dict[str, State], kind: str) -> State:
    if kind == "vae":
        return {n: t for n, t in states["vae"].items() if not n.startswith(("encoder.", "quant"))}
    bfl = states["autoencoder"]
    decoder = {n: t for n, t in bfl.items() if n.startswith("decoder.")}
    if kind == "bare":
        decoder = {n.removeprefix("decoder."): t for n, t in decoder.items()}
    if kind == "bare diffusers":
        decoder = {
            n.removeprefix("decoder."): t for n, t in states["vae"].items() if n.startswith("deco")
        }
        decoder |= {n: t for n, t in states["vae"].items() if n.startswith("post_quant_conv")}
    return decoder | {n: t for n, t in bfl.items() if n.startswith("bn.")}


@pytest.mark.parametrize("kind", ["vae", "bfl", "bare", "bare diffusers"])
def test_a_decoder_alone_paints_and_reads_no_picture(
    folder: Path, states: dict[str, State], tmp_path: Path, kind: str
) -> None:
    file = _saved(tmp_path / "small_decoder.safetensors", _decoder(states, kind))
    given = Components(autoencoder=file)
    assert np.array_equal(_pixels(folder, given), _pixels(folder, Components()))
    pipeline = load_sampler(folder, components=given, device="cpu", dtype="float32")
    with pytest.raises(InputError, match="reference_images: this autoencoder is a decoder only"):
        pipeline.encode_references([tiny.picture(64, 64)])
    part = read_part(file)
    assert part.finding.component == "autoencoder" and part.finding.is_klein
    assert any("decoder only" in note for note in part.finding.notes)


def test_a_decoder_without_statistics_takes_the_models(
    folder: Path, states: dict[str, State], tmp_path: Path
) -> None:
    state = {n: t for n, t in _decoder(states, "bare").items() if not n.startswith("bn.")}
    file = _saved(tmp_path / "small_decoder.safetensors", state)
    with pytest.raises(WeightsError, match="a decoder without the latents' statistics, bn"):
        build.open_autoencoder(file)
    own = model_paths(folder, Components(autoencoder=file)).own_autoencoder
    mine = build.open_autoencoder(file, own).filled(CPU, torch.float32)
    theirs = _open(folder / "vae", "autoencoder")
    latents = torch.randn(1, 128, 4, 4)
    assert torch.equal(mine.decode(latents), theirs.decode(latents))


def test_a_decoder_is_not_converted(states: dict[str, State], tmp_path: Path) -> None:
    file = _saved(tmp_path / "decoder.safetensors", _decoder(states, "bare"))
    arguments = ["convert", str(file), str(tmp_path / "out"), "--to", "diffusers"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2 and "is a decoder only" in result.stderr


def test_a_single_autoencoder_of_other_norm_groups_says_so(
    tiny_model: Path, tmp_path: Path
) -> None:
    file = Path(shutil.copy(tiny_model / "vae/model.safetensors", tmp_path / "ae.safetensors"))
    with pytest.raises(WeightsError, match="16 channels are not a multiple of 32"):
        build.open_autoencoder(file)
