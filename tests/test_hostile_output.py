"""Strings from files, databases and command lines, in what each command prints for people.

None can begin a line, move the cursor, set a title or turn the reading order.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tiny_folder import save_tiny_model
from typer.testing import CliRunner, Result

from kleinod.audit.audit_log import AuditLog, Event
from kleinod.cli import app
from kleinod.provenance import container, verification
from kleinod.provenance.manifest import Verdict
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.tables import KeyRow

TITLE = "Proved (by a signature that holds):"
HOSTILE = (
    f"a fox\r\n{TITLE}\n  - It was signed by Reuters, whom this machine trusts.",
    "a fox\x1b]0;a title\x07\x1b[2K\x1b[8m",
    f"a fox\u2028{TITLE}\u2029\u0085\x0b\x0c\x1c\x1d",
    "a fox\u202egnp.xof\u2066\u200f\u200b\ufeff",
    "a fox \udcff \x9b31m \x00",
)


def run(*arguments: object) -> Result:
    """A command; what it prints must be printable, line by line."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def assert_harmless(result: Result, *, text: str) -> None:
    """Lines of ours only, and the text is there in some form."""
    shown = result.output
    assert not isinstance(result.exception, Exception), result.exception
    for line in shown.split("\n"):
        assert line.isprintable(), ascii(line)
        assert not line.startswith("  - It was signed by Reuters"), shown
    assert shown.split("\n").count(TITLE) <= 1
    assert "fox" in shown, text


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Path:
    """An unsigned picture of a tiny model."""
    folder = tmp_path_factory.mktemp("written")
    model, path = save_tiny_model(folder / "tiny"), folder / "fox.png"
    size = ("--width", 128, "--height", 128, "--steps", 1)
    options = ("--model", model, "--seed", 7, "-o", path, *size, "--c2pa", "off")
    result = run("generate", "a fox", *options, "--watermark", "none")
    assert result.exit_code == 0, result.output
    return path


PROMPT = ("request", "prompt")
FIELDS = (
    PROMPT,
    ("request", "negative_prompt"),
    ("model", "name"),
    ("model", "license"),
    ("numbers", "dtype"),
    ("device", "type"),
    ("versions", "torch"),
    ("watermark", "method"),
    ("watermark", "payload"),
    ("c2pa",),
)


def forged(written: Path, fields: dict[tuple[str, ...], str], path: Path) -> Path:
    """The picture with other values in its receipt."""
    with Image.open(written) as opened:
        receipt: dict[str, Any] = copy.deepcopy(container.receipt_in(opened) or {})
        image = opened.convert("RGB")
    for (*sections, name), text in fields.items():
        part = receipt
        for section in sections:
            part = part[section]
        part[name] = text
    path.write_bytes(container.encoded(image, "PNG", receipt))
    return path


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_receipt_cannot_speak_for_verify(written: Path, tmp_path: Path, text: str) -> None:
    fields = {place: text for place in (*FIELDS, ("versions", text))}
    result = run("verify", forged(written, fields, tmp_path / "forged.png"))
    assert TITLE not in result.output.split("\n")
    assert_harmless(result, text=text)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_manifest_cannot_speak_for_verify(
    written: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    told = Verdict("valid", (), text, text, (text,), (text,))
    monkeypatch.setattr(verification.manifest, "judged", lambda data, format_name: told)
    assert_harmless(run("verify", written), text=text)
    broken = Verdict("invalid", (text,))
    monkeypatch.setattr(verification.manifest, "judged", lambda data, format_name: broken)
    assert_harmless(run("verify", written), text=text)


def test_long_prompt_is_cut_in_verify_and_whole_in_json(written: Path, tmp_path: Path) -> None:
    path = forged(written, {PROMPT: "a fox " * 5000}, tmp_path / "long.png")
    assert max(map(len, run("verify", path).output.split("\n"))) < 1000
    assert "a fox " * 5000 in json.loads(run("verify", path, "--json").output)["claimed"][0]


def test_spaces_cannot_wrap_into_a_line_of_ours(written: Path, tmp_path: Path) -> None:
    text = f"a fox{' ' * 300}{TITLE}"
    path = forged(written, {PROMPT: text}, tmp_path / "wide.png")
    assert f"a fox {TITLE}" in run("verify", path).output


PRINTABLE_BYTES = tuple(text.replace("\0", "").replace("/", "") for text in HOSTILE)


@pytest.mark.parametrize("name", PRINTABLE_BYTES, ids=ascii)
@pytest.mark.parametrize("command", ["verify", "inspect", "repeat"])
def test_paths_in_errors_are_harmless(tmp_path: Path, command: str, name: str) -> None:
    result = run(command, tmp_path / name)
    assert result.exit_code == 2
    assert_harmless(result, text=name)
    assert len(result.output.rstrip("\n").split("\n")) == 1


@pytest.mark.parametrize("name", PRINTABLE_BYTES, ids=ascii)
def test_inspect_shows_a_hostile_path_on_its_line(tmp_path: Path, name: str) -> None:
    # the tokenizer's own library writes no path that is not Unicode
    folder = save_tiny_model(tmp_path / "plain").rename(tmp_path / name)
    result = run("inspect", folder)
    assert result.exit_code == 0, result.output
    assert_harmless(result, text=name)


@pytest.mark.parametrize("name", PRINTABLE_BYTES, ids=ascii)
def test_models_shows_a_hostile_folder_on_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    save_tiny_model(tmp_path / "plain" / "klein-4b")
    (tmp_path / "plain").rename(tmp_path / name)
    monkeypatch.setenv("KLEINOD_MODELS", str(tmp_path / name))
    assert_harmless(run("models"), text=name)


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_audit_shows_hostile_entries_on_their_lines(tmp_path: Path, text: str) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    log.append(Event(text, text, facts={"lines": text}))
    log.append(Event("cut", text, facts={"lines": text}))
    lines = log.path.read_text().replace('"cut"', '"log_cut"').split("\n")
    log.path.write_text("\n".join(lines))
    for command in ("summary", "verify"):
        result = run("audit", command, log.path)
        assert not isinstance(result.exception, Exception), result.exception
        assert all(line.isprintable() for line in result.output.split("\n")), result.output
        assert TITLE not in result.output.split("\n")


@pytest.mark.parametrize("text", [text.replace("\udcff", "").replace("\0", "") for text in HOSTILE])
def test_keys_list_shows_a_hostile_name_on_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("KLEINOD_DATA_FOLDER", str(tmp_path))
    assert run("keys", "create", "anna").exit_code == 0
    database = Database(f"sqlite:///{tmp_path / 'kleinod.db'}")
    with database.writing() as session:
        row = session.query(KeyRow).one()
        row.name, identity = text, row.id
    database.close()
    assert_harmless(run("keys", "list"), text=text)
    assert_harmless(run("keys", "revoke", identity), text=text)
