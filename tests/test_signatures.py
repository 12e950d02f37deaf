"""What is given in place of weights is named, alike by `inspect`, `generate` and `kleinod.load`."""

import gzip
import io
import json
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
import torch
import transformers
from header_files import safetensors_bytes, write_sparse
from PIL import Image
from published import entry, klein, of_module
from typer.testing import CliRunner

import kleinod
from kleinod.cli import app
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import InputError, WeightsError
from kleinod.request import Components
from kleinod.weights.folders import model_paths
from kleinod.weights.headers import read_header
from kleinod.weights.inspect_model import inspected


def _picture(kind: str) -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (32, 32), "red").save(data, kind)
    return data.getvalue()


def _zip(name: str) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return data.getvalue()


def _torch_file() -> bytes:
    data = io.BytesIO()
    torch.save({"weight": torch.ones(3)}, data)
    return data.getvalue()


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 7753000000\n"
FILES = {
    "pointer": (POINTER, "is a Git LFS pointer, not the file; run `git lfs pull`"),
    "page": (b"<!DOCTYPE html><html><head><title>401</title></head></html>", "is a web page"),
    "page later": (b"\n\n  <html lang='en'>" + b" " * 5000, "is a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "refusal": (
        b'{"error":"Access to model black-forest-labs/FLUX.2-klein-9B is restricted."}',
        "is a server's answer ('Access to model black-forest-labs/FLUX.2-klein-9B is restricted.')",
    ),
    "another refusal": (b'{"detail": "Not Found"}', "is a server's answer ('Not Found')"),
    "sentence": (b"Invalid username or password.", "is text ('Invalid username or password.')"),
    "pickle 2": (pickle.dumps({"a": 1}, protocol=2) * 9, "is a pickle, which may hold code"),
    "pickle 4": (pickle.dumps({"a": "b" * 300}, protocol=4), "is a pickle, which may hold code"),
    "pickle 5": (pickle.dumps([1.0] * 90, protocol=5), "is a pickle, which may hold code"),
    "torch": (_torch_file(), "is a pickle, which may hold code"),
    "zip": (_zip("klein.safetensors"), "is a zip archive; unpack it"),
    "gzip": (gzip.compress(bytes(3000)), "is a gzip archive; unpack it"),
    "png": (_picture("PNG"), "is a PNG picture, not weights"),
    "jpeg": (_picture("JPEG"), "is a JPEG picture, not weights"),
    "webp": (_picture("WEBP"), "is a WebP picture, not weights"),
    "gif": (_picture("GIF"), "is a GIF picture, not weights"),
    "avif": (_picture("AVIF"), "is an AVIF picture, not weights"),
    "heic": (b"\0\0\0\x18ftypheic" + bytes(60), "is a HEIC picture, not weights"),
    "empty": (b"", "is empty"),
    "zeros": (bytes(4096), "begins with zeros only"),
    "companion": (b"\0\5\x16\7\0\2\0\0Mac OS X        ", "is macOS' companion of a file"),
    "index": (b'{"metadata": {}, "weight_map": {"a": "b"}}', "is the index of a model in pieces"),
    "config": (b'{"_class_name": "Flux2Transformer2DModel"}', "is a model's configuration"),
    "tokenizer": (b'{"version": "1.0", "added_tokens": []}', "is a tokenizer, not weights; give"),
    "json": (b"[1, 2, 3]", "is a JSON file, not weights"),
    "cut": (safetensors_bytes(b'{"a":1}', b"")[:12], "is cut short"),
}


def _run(*arguments: object) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("ending", [".safetensors", ".gguf", ".ckpt", ""])
def test_what_is_no_weights_is_named(kind: str, ending: str, tmp_path: Path) -> None:
    data, message = FILES[kind]
    file = tmp_path / f"thing{ending}"
    file.write_bytes(data)
    with pytest.raises(WeightsError) as caught:
        read_header(file)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert len(str(caught.value).replace(str(file), "")) < 300


@pytest.mark.parametrize("kind", ["pointer", "page", "refusal", "torch", "png", "empty", "index"])
def test_inspect_and_generate_agree(kind: str, tmp_path: Path) -> None:
    data, message = FILES[kind]
    file = tmp_path / "thing.safetensors"
    file.write_bytes(data)
    assert message in _run("inspect", file)
    assert message in _run("generate", "a fox", "--model", file, "-q")
    mini = Path(kleinod.__file__).parent / "mini"
    for option in ("--text-encoder", "--autoencoder"):
        assert message in _run("generate", "a fox", "--model", mini, option, file, "-q")


def test_a_header_whose_length_looks_like_a_pickle_is_read(tmp_path: Path) -> None:
    """640 is 0x280, which is how a pickle begins; 19778 is a bitmap's BM."""
    for length in (0x0280, 0x0480, 0x4D42):
        header = b'{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]}}'
        file = tmp_path / f"{length}.safetensors"
        file.write_bytes(safetensors_bytes(header.ljust(length), bytes(4)))
        assert read_header(file).tensors["a"].shape == (4,)


# Endings lie


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.saved(tmp_path_factory.mktemp("klein"))


@pytest.mark.parametrize("name", ["te.SAFETENSORS", "te.gguf", "te.bin", "te", "te.SafeTensors"])
def test_a_file_is_read_by_its_contents(folder: Path, tmp_path: Path, name: str) -> None:
    file = Path(shutil.copy(folder / "text_encoder/model.safetensors", tmp_path / name))
    given = Components(text_encoder=file, tokenizer=folder / "tokenizer")
    load_sampler(folder, components=given, device="cpu")
    assert inspected(file).title == "Qwen3 text encoder"


@pytest.mark.parametrize("name", ["x.GGUF", "x.safetensors", "x"])
def test_a_gguf_file_is_read_by_its_contents(tmp_path: Path, name: str) -> None:
    import gguf
    import numpy as np

    from kleinod.weights.files import read_weights

    writer = gguf.GGUFWriter(tmp_path / name, "flux")
    writer.add_tensor("img_in.weight", np.ones((2, 3), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert read_weights(tmp_path / name, "transformer")["img_in.weight"].shape == (2, 3)
    assert read_header(tmp_path / name).format == "gguf"


def test_endings_in_capitals_are_found_in_folders(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    old = copy / "text_encoder/model.safetensors"
    old.rename(old.with_name("QWEN.SAFETENSORS"))
    load_sampler(copy, device="cpu")


# Other kinds of weights


def _lora(tmp_path: Path) -> Path:
    stem = "diffusion_model.double_blocks.0.img_attn.qkv"
    tensors = {
        f"{stem}.lora_A.weight": entry("BF16", 16, 3072),
        f"{stem}.lora_B.weight": entry("BF16", 9216, 16),
    }
    return write_sparse(tmp_path / "lora.safetensors", tensors)


def _t5(tmp_path: Path) -> Path:
    with torch.device("meta"):
        model = transformers.T5EncoderModel(transformers.T5Config(num_layers=1, vocab_size=100))
    return write_sparse(tmp_path / "t5.safetensors", of_module(model))


def _clip(tmp_path: Path) -> Path:
    with torch.device("meta"):
        config = transformers.CLIPTextConfig(num_hidden_layers=1)
        model = transformers.CLIPTextModel(config)
    return write_sparse(tmp_path / "clip.safetensors", of_module(model))


def _qwen(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "te.safetensors", of_module(tiny.text_encoder()))


def _vae(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "ae.safetensors", of_module(tiny.autoencoder()))


def _klein(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "klein.safetensors", klein())


def _dev(tmp_path: Path) -> Path:
    return write_sparse(tmp_path / "dev.safetensors", klein(6144, 8, 48, 15360))


@pytest.mark.parametrize(
    ("build", "option", "message"),
    [
        (_lora, "--model", "is not a klein transformer but a FLUX.2 klein 4B LoRA; LoRA files are"),
        (_qwen, "--model", "but a Qwen3 text encoder; give it as --text-encoder"),
        (_vae, "--model", "autoencoder; give it as --autoencoder"),
        (_t5, "--model", "but a T5 text encoder; it is not used here, give a klein transformer"),
        (_clip, "--model", "but a CLIP text encoder; it is not used here"),
        (_dev, "--model", "but a FLUX.2 dev transformer; it is not used here"),
        (_t5, "--text-encoder", "is not a Qwen3 text encoder but a T5 text encoder; it is not"),
        (_clip, "--text-encoder", "is not a Qwen3 text encoder but a CLIP text encoder"),
        (_klein, "--text-encoder", "but a FLUX.2 klein 4B transformer; give it as --model"),
        (_vae, "--text-encoder", "autoencoder; give it as --autoencoder"),
        (_lora, "--text-encoder", "is not a Qwen3 text encoder but a FLUX.2 klein 4B LoRA"),
        (_qwen, "--autoencoder", "is not a FLUX.2 autoencoder but a Qwen3 text encoder; give it"),
        (_klein, "--autoencoder", "but a FLUX.2 klein 4B transformer; give it as --model"),
        (_lora, "--autoencoder", "is not a FLUX.2 autoencoder but a FLUX.2 klein 4B LoRA"),
    ],
)  # fmt: skip
def test_a_wrong_kind_is_named_with_its_use(
    build: Callable[[Path], Path], option: str, message: str, tmp_path: Path
) -> None:
    arguments = {"--model": str(Path(kleinod.__file__).parent / "mini")}
    arguments[option] = str(build(tmp_path))
    words = [word for pair in arguments.items() for word in pair]
    assert message in _run("generate", "a fox", *words, "-q")


def test_loading_asks_what_the_file_is(tmp_path: Path) -> None:
    """Below the paths' check too, as for a folder's component."""
    from kleinod.weights import build

    with pytest.raises(WeightsError, match="but a Qwen3 text encoder; give"):
        build.open_transformer(_qwen(tmp_path))
    with pytest.raises(WeightsError, match="but a T5 text encoder"):
        build.open_text_encoder(_t5(tmp_path), (1,))
    with pytest.raises(WeightsError, match=r"but a FLUX\.2 klein 4B transformer"):
        build.open_autoencoder(_klein(tmp_path))


def test_a_single_file_is_refused_without_a_warning(tmp_path: Path) -> None:
    assert "give --text-encoder PATH" in _run("generate", "a fox", "--model", _klein(tmp_path))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p.mkdir(), "holds no model_index.json; give a folder in the diffusers layout"),
        (lambda p: p.symlink_to(p), "is a link that leads nowhere"),
        (lambda p: p.symlink_to("absent"), "is a link that leads nowhere"),
        (lambda p: None, "does not exist; check the path"),
    ],
)
def test_what_is_no_model_is_one_line(make, message: str, tmp_path: Path) -> None:  # noqa: ANN001
    make(tmp_path / "model")
    with pytest.raises(InputError) as caught:
        model_paths(tmp_path / "model", Components())
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_components_folder_names_the_models(folder: Path) -> None:
    with pytest.raises(InputError, match=r"model_index\.json; it is a part of .*, give that"):
        load_sampler(folder / "transformer", device="cpu")


def test_a_loop_of_links_in_a_model_is_named(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    file = copy / "text_encoder" / "qwen.safetensors"
    (copy / "text_encoder" / "model.safetensors").unlink()
    file.symlink_to(file)
    for command in (["inspect", copy], ["generate", "a fox", "--model", copy, "-q"]):
        assert "is a link that leads to no file" in _run(*command)


def test_the_users_folder_is_expanded(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    home = f"~/{folder.name}"
    given = Components(f"{home}/text_encoder", f"{home}/vae", f"{home}/tokenizer")
    paths = model_paths(folder, given)
    assert paths.text_encoder == folder / "text_encoder" and paths.autoencoder == folder / "vae"
    for name in ("text_encoder", "autoencoder", "tokenizer"):
        with pytest.raises(InputError, match=f"{name}: the path is empty"):
            model_paths(folder, Components(**{name: ""}))


# Companions, marks at the start of texts


def test_dot_files_beside_weights_are_left_aside(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    for file in [*copy.rglob("*.safetensors"), *copy.rglob("*.json")]:
        shutil.copy(file, file.with_name(".hidden" + file.suffix))
        file.with_name("._" + file.name).write_bytes(FILES["companion"][0])
    index = copy / "transformer" / "._model.safetensors.index.json"
    index.write_bytes(FILES["companion"][0])
    old = copy / "text_encoder/model.safetensors"
    old.rename(old.with_name("qwen.safetensors"))
    load_sampler(copy, device="cpu")
    assert inspected(copy).title == inspected(folder).title
    assert inspected(copy / "text_encoder").title == "Qwen3 text encoder"


@pytest.mark.parametrize("mark", [b"\xef\xbb\xbf", b""])
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_configurations_are_read_with_a_byte_order_mark(
    tiny_model: Path, tmp_path: Path, mark: bytes, ends: bytes
) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    for file in copy.rglob("*.json"):
        if file.name != "tokenizer.json":
            lines = json.dumps(json.loads(file.read_text()), indent=1).encode()
            file.write_bytes(mark + lines.replace(b"\n", ends))
    assert load_sampler(copy, device="cpu").info.name == "tiny"
    assert inspected(copy).missing == ()


def test_a_configuration_in_another_encoding_says_so(tiny_model: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_model, tmp_path / "copy"))
    (copy / "transformer" / "config.json").write_bytes('{"a": "é"}'.encode("latin-1"))
    with pytest.raises(WeightsError, match="is not text in UTF-8; save it as UTF-8"):
        load_sampler(copy, device="cpu")


# Words of inspect and convert


def test_memory_says_what_it_assumes(folder: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["inspect", str(_klein(tmp_path))])
    words = "an estimate, with the published text encoder and autoencoder, not in this file)"
    assert words in result.stdout
    _vae(tmp_path)
    result = CliRunner().invoke(app, ["inspect", str(_klein(tmp_path))])
    assert "with the published text encoder, not in this file)" in result.stdout
    whole = CliRunner().invoke(app, ["inspect", str(folder)])
    assert "an estimate)" in whole.stdout and "with the published" not in whole.stdout


@pytest.mark.parametrize("name", ["out.safetensors", "out.SAFETENSORS", "out.gguf"])
def test_a_folder_does_not_get_a_files_name(tmp_path: Path, name: str) -> None:
    arguments = ("convert", _klein(tmp_path), tmp_path / name, "--to", "diffusers", "-q")
    message = _run(*arguments)
    assert "has a file's name, the diffusers layout is a folder; give " in message
    assert str(tmp_path / "out") in message and not (tmp_path / name).exists()
