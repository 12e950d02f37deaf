"""Text in the encodings that editors write, and files written whole or not at all."""

import codecs
import os
from pathlib import Path

import pytest

from kleinod import fileio, paths
from kleinod.config import read_json
from kleinod.errors import InputError, WeightsError
from kleinod.safety import Policy
from kleinod.server import settings

TEXT = 'name = "Füchse, 狐狸"\nsteps = 5\n'


@pytest.mark.parametrize(
    "data",
    [
        TEXT.encode(),
        codecs.BOM_UTF8 + TEXT.encode(),
        TEXT.encode("utf-16"),
        codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"),
        TEXT.encode("utf-32"),
        TEXT.replace("\n", "\r\n").encode("utf-8-sig"),
        TEXT.replace("\n", "\r\n").encode("utf-16"),
        TEXT.replace("\n", "\r").encode(),
    ],
)
def test_text_is_read_in_every_encoding_that_says_what_it_is(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(data)
    assert fileio.read_text(path, "a") == TEXT
    assert fileio.read_toml(path, "a") == {"name": "Füchse, 狐狸", "steps": 5}


@pytest.mark.parametrize(
    "data",
    [
        "Café".encode("cp1252"),
        "лиса".encode("cp1251"),
        "狐狸".encode("shift_jis"),
        "a fox".encode("utf-16-le"),
        "a fox".encode("utf-16-be"),
        codecs.BOM_UTF16_LE + b"a\0b",
        codecs.BOM_UTF8 + b"\xff",
    ],
)
def test_text_in_another_encoding_is_refused_by_name(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fox.txt"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^data: .*fox\.txt .* save it as UTF-8$"):
        fileio.read_text(path, "data")


@pytest.mark.parametrize("data", [b"{", b"", b"[" * 200_000, codecs.BOM_UTF8 + b"nul"])
def test_broken_json_is_one_line_with_its_file(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"config\.json cannot be read .not valid JSON"):
        fileio.read_json(path, "config")
    with pytest.raises(WeightsError, match=r"config\.json .*fetch the model again"):
        read_json(path)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_model_configuration_may_have_a_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "model_index.json"
    path.write_text('{"is_distilled": true}', encoding=encoding)
    assert read_json(path) == {"is_distilled": True}


def test_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"config: cannot read .*no\.toml .No such file"):
        fileio.read_toml(tmp_path / "no.toml", "config")
    with pytest.raises(InputError, match="cannot read"):
        fileio.read_text(tmp_path, "config")


def test_unknown_home_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    assert paths.expand_user("~/x", "data") == Path("/home/somebody/x")
    with pytest.raises(InputError, match=r"data: ~no-such-user-here/x: .*; give the whole path"):
        paths.expand_user("~no-such-user-here/x", "data")


def test_failed_writing_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.txt"
    fileio.write_atomic(path, "old")
    with pytest.raises(RuntimeError), fileio.atomic_path(path, sync=True) as part:
        part.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and os.listdir(path.parent) == ["a.txt"]
    fileio.write_atomic(path, b"new", sync=True)
    assert path.read_text() == "new" and os.listdir(path.parent) == ["a.txt"]


def test_link_is_written_through(tmp_path: Path) -> None:
    target, link = tmp_path / "target.txt", tmp_path / "link.txt"
    target.write_text("old")
    link.symlink_to(target)
    fileio.write_atomic(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


CONFIGURATION_ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", CONFIGURATION_ENCODINGS)
def test_settings_are_read_in_every_encoding(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "kleinod.toml"
    path.write_bytes("# Füchse\r\nport = 5\r\n".encode(encoding))
    assert settings.load(path).port == 5


@pytest.mark.parametrize("encoding", CONFIGURATION_ENCODINGS)
def test_policy_and_deny_list_are_read_in_every_encoding(
    tmp_path: Path, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    path = tmp_path / "safety.toml"
    path.write_bytes('is_on = false\r\ndeny_list = "~/deny.txt"\r\n'.encode(encoding))
    policy = Policy.configured(path)
    assert (policy.is_on, policy.deny_list) == (False, tmp_path / "deny.txt")


@pytest.mark.parametrize("name", ["kleinod.toml", "safety.toml"])
def test_configuration_in_another_encoding_is_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes("# Füchse".encode("cp1252"))
    with pytest.raises(InputError, match=f"{name} is not text in UTF-8; save it as UTF-8"):
        settings.load(path) if name == "kleinod.toml" else Policy.configured(path)
