"""The audit log: no line is lost, changed or moved unseen; crashes leave it whole."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from tiny_folder import save_tiny_model
from typer.testing import CliRunner

import kleinod
from kleinod.audit import audit_log, audit_log_reader
from kleinod.audit.audit_log import AuditLog, Event
from kleinod.cli import app
from kleinod.errors import InputError, ModeratedError
from kleinod.safety.pictures import Drawings
from kleinod.safety.verdicts import SEXUAL


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    """Six entries of two keys."""
    log = AuditLog(tmp_path / "audit.jsonl")
    for seed in range(5):
        log.append(Event("generated", key=f"key-{seed % 2}", prompt="a fox", facts={"seed": seed}))
    log.append(Event("moderated", key="key-0", categories=("hate", "gore"), prompt="something"))
    return log


def _lines(log: AuditLog) -> list[bytes]:
    return log.path.read_bytes().splitlines(keepends=True)


def _problems(log: AuditLog) -> str:
    return "; ".join(audit_log_reader.verify(log).problems)


def test_log_is_whole_as_it_was_written(log: AuditLog) -> None:
    report = audit_log_reader.verify(log)
    assert (report.problems, report.notes, report.num_lines) == ((), (), 6)
    entries = [json.loads(line) for line in _lines(log)]
    assert [entry["index"] for entry in entries] == list(range(6))
    assert entries[3]["facts"] == {"seed": 3}


@pytest.mark.parametrize("number", range(6))
def test_removed_line_is_seen(log: AuditLog, number: int) -> None:
    lines = _lines(log)
    log.path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    assert _problems(log)


@pytest.mark.parametrize("number", range(6))
def test_changed_line_is_seen(log: AuditLog, number: int) -> None:
    lines = _lines(log)
    lines[number] = lines[number].replace(b"key-", b"kex-")
    log.path.write_bytes(b"".join(lines))
    assert _problems(log)


@pytest.mark.parametrize("number", range(5))
def test_moved_line_is_seen(log: AuditLog, number: int) -> None:
    lines = _lines(log)
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    log.path.write_bytes(b"".join(lines))
    assert "removed, added or moved" in _problems(log)


def test_line_put_in_is_seen(log: AuditLog) -> None:
    lines = _lines(log)
    log.path.write_bytes(b"".join([*lines[:3], lines[2], *lines[3:]]))
    assert _problems(log)


def test_cut_end_stays_seen_after_the_next_entry(log: AuditLog) -> None:
    log.path.write_bytes(b"".join(_lines(log)[:4]))
    assert "the end was cut: the last of 6 lines" in _problems(log)
    log.append(Event("generated"))
    assert "says that the log had been cut (it had 6 lines)" in _problems(log)


def test_missing_head_is_seen(log: AuditLog) -> None:
    log.head_path.unlink()
    assert "audit.jsonl.head is missing" in _problems(log)
    log.append(Event("generated"))
    assert "had been cut" in _problems(log)


def test_log_written_anew_is_seen_by_a_hash_noted_elsewhere(log: AuditLog) -> None:
    noted = audit_log_reader.verify(log).hash
    for _ in range(3):
        log.append(Event("generated"))
    assert not audit_log_reader.verify(log, expected=noted).problems
    for path in (log.path, log.head_path):
        path.unlink()
    for _ in range(9):
        log.append(Event("generated"))
    assert not _problems(log)
    assert f"the expected line {noted}" in audit_log_reader.verify(log, expected=noted).problems[0]


# Crashes


@pytest.mark.parametrize("num_bytes", [1, 30, 200])
def test_half_line_of_a_crash_is_told_and_harmless(log: AuditLog, num_bytes: int) -> None:
    whole, head = log.path.read_bytes(), log.head_path.read_bytes()
    log.append(Event("generated", facts={"seed": 6}))
    written = log.path.read_bytes()[len(whole) :]
    # as a crash leaves it: a part of the line, the head of before
    log.path.write_bytes(whole + written[:num_bytes])
    log.head_path.write_bytes(head)
    report = audit_log_reader.verify(log)
    assert report.problems == () and "half written, by a crash" in report.notes[0]
    log.append(Event("generated", facts={"seed": 7}))
    assert _problems(log) == ""
    last, before = (json.loads(line) for line in reversed(_lines(log)[-2:]))
    assert (last["facts"], before["event"]) == ({"seed": 7}, "recovered")


def test_line_without_its_end_is_kept(log: AuditLog) -> None:
    log.path.write_bytes(log.path.read_bytes().removesuffix(b"\n"))
    log.append(Event("generated"))
    assert _problems(log) == "" and len(_lines(log)) == 7


def test_head_left_behind_by_a_crash_is_no_fault(log: AuditLog) -> None:
    head = log.head_path.read_bytes()
    log.append(Event("generated"))
    log.head_path.write_bytes(head)
    assert _problems(log) == ""
    log.append(Event("generated"))
    assert _problems(log) == "" and len(_lines(log)) == 8


def test_killed_writers_leave_a_whole_log(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    code = (
        "import sys; from pathlib import Path; from kleinod.audit.audit_log import *\n"
        "log = AuditLog(Path(sys.argv[1])); print('ready', flush=True)\n"
        "while True: log.append(Event('generated', prompt='a fox'))"
    )
    for _ in range(3):
        command = [sys.executable, "-c", code, str(log.path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=os.environ) as writer:
            assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
            while not log.path.exists():
                pass
            writer.kill()
    log.append(Event("end"))
    assert _problems(log) == ""


def test_many_processes_write_one_chain(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl")
    code = (
        "import sys; from pathlib import Path; from kleinod.audit.audit_log import *\n"
        "log = AuditLog(Path(sys.argv[1]))\n"
        "for n in range(25): log.append(Event('generated', key=sys.argv[2], prompt='a fox'))"
    )
    command = [sys.executable, "-c", code, str(log.path)]
    writers = [subprocess.Popen([*command, str(n)], env=os.environ) for n in range(4)]
    assert [writer.wait() for writer in writers] == [0] * 4
    report = audit_log_reader.verify(log)
    assert (report.problems, report.num_lines) == ((), 100)
    counts = audit_log_reader.summary(log).keys
    assert {key: counts[key]["generated"] for key in counts} == dict.fromkeys("0123", 25)
    # one key for all: the same prompt has the same hash
    assert len({json.loads(line)["prompt_hmac"] for line in _lines(log)}) == 1


# What it says


def test_prompts_are_hashed_with_a_key_of_the_owner(log: AuditLog) -> None:
    assert b"fox" not in log.path.read_bytes()
    entry = json.loads(_lines(log)[0])
    assert entry["prompt_hmac"] == log.hashed("a fox") != log.hashed("an owl")
    for name in ("audit.jsonl", "audit.jsonl.key"):
        assert stat.S_IMODE((log.path.parent / name).stat().st_mode) == 0o600


def test_prompts_are_kept_where_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(tmp_path / "a.jsonl"))
    monkeypatch.setenv("KLEINOD_AUDIT_PROMPTS", "plain")
    audit_log.append(Event("generated", prompt="ein Fuchs im Grünen"))
    assert json.loads((tmp_path / "a.jsonl").read_text())["prompt"] == "ein Fuchs im Grünen"
    monkeypatch.setenv("KLEINOD_AUDIT_PROMPTS", "sometimes")
    with pytest.raises(InputError, match="KLEINOD_AUDIT_PROMPTS: 'sometimes' is neither"):
        audit_log.configured()


def test_log_is_off_unless_switched_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLEINOD_AUDIT_LOG", raising=False)
    assert audit_log.configured() is None
    default = audit_log.configured(default=audit_log.default_path())
    assert default is not None and default.path == audit_log.default_path()
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", "off")
    assert audit_log.configured(default=audit_log.default_path()) is None
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", "on")
    assert audit_log.configured() == AuditLog(audit_log.default_path())


def test_what_a_filter_stopped_is_counted_by_category(log: AuditLog) -> None:
    verdict = SimpleNamespace(category="gore", filter="words", version="1")
    stopped = SimpleNamespace(moment="prompt", verdicts=(verdict, verdict))
    log.append(audit_log.moderated(stopped, key="key-1", prompt="something"))
    found = audit_log_reader.summary(log)
    assert found.categories == {"hate": 1, "gore": 2}
    assert found.keys["key-1"] == {"generated": 2, "moderated": 1}
    assert audit_log_reader.summary(log, since="2999").events == {}
    assert audit_log_reader.summary(log, until="2000").events == {}


# On the command line


def _run(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_generate_writes_the_log_where_it_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, path = save_tiny_model(tmp_path / "tiny"), tmp_path / "audit.jsonl"
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(path))
    options = ("--model", model, "-n", 2, "--seed", 7, "-o", tmp_path, "--json")
    status, text = _run("generate", "a fox", *options)
    assert status == 0, text
    facts = [json.loads(line)["facts"] for line in path.read_bytes().splitlines()]
    images = json.loads(text)["images"]
    assert [fact["file_sha256"] for fact in facts] == [image["sha256"] for image in images]
    assert [fact["watermark"] for fact in facts] == [image["watermark"] for image in images]
    assert _run("audit", "verify", path, "--json")[0] == 0
    assert json.loads(_run("audit", "summary", "--json")[1])["events"] == {"generated": 2}


def test_what_a_filter_stops_is_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, log = save_tiny_model(tmp_path / "tiny"), AuditLog(tmp_path / "audit.jsonl")
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(log.path))
    options = ("--model", model, "--seed", 7, "-o", tmp_path / "a.png")
    assert _run("generate", "a nude woman", *options)[0] == 3
    assert _run("generate", "a nude woman", *options, "--private")[0] == 3
    scores = iter([0.1, 0.95])  # of two results
    monkeypatch.setattr(Drawings, "scores", lambda *_: {SEXUAL: next(scores)})
    assert _run("generate", "a fox", *options, "-n", 2)[0] == 3
    with pytest.raises(ModeratedError):
        kleinod.load(model).generate("a nude woman")
    entries = [json.loads(line) for line in _lines(log)]
    events = [(entry["event"], entry["facts"].get("moment")) for entry in entries]
    stopped = ("moderated", "prompt")
    assert events == [stopped, stopped, ("generated", None), ("moderated", "result"), stopped]
    assert entries[0]["prompt_hmac"] == log.hashed("a nude woman") == entries[4]["prompt_hmac"]
    assert "prompt_hmac" not in entries[1] and entries[3]["prompt_hmac"] == log.hashed("a fox")
    assert entries[0]["categories"] == ["sexual"] and "words 2" in entries[0]["facts"]["filters"]
    assert _problems(log) == ""


def test_repeat_tells_the_log_of_its_picture_and_of_what_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, log = save_tiny_model(tmp_path / "tiny"), AuditLog(tmp_path / "audit.jsonl")
    options = ("--model", model, "-o", tmp_path / "a.png", "--safety", "off")
    again = ("repeat", tmp_path / "a.png", "--model", model, "-o", tmp_path / "b.png")
    assert _run("generate", "a fox", *options)[0] == 0
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(log.path))
    assert _run(*again)[0] == 0
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", "off")
    assert _run("generate", "a nude woman", *options)[0] == 0
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", str(log.path))
    assert _run(*again)[0] == 3
    entries = [json.loads(line) for line in _lines(log)]
    assert [entry["event"] for entry in entries] == ["generated", "moderated"]
    assert entries[0]["facts"]["file_sha256"] == audit_log.line_hash(
        (tmp_path / "b.png").read_bytes()
    )


def test_log_that_cannot_be_written_stops_before_the_painting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KLEINOD_AUDIT_LOG", "/proc/kleinod/audit.jsonl")
    status, text = _run("generate", "a fox", "-o", tmp_path / "a.png")
    assert status == 2 and text.startswith("error: KLEINOD_AUDIT_LOG: /proc/kleinod/audit.jsonl")
    assert not (tmp_path / "a.png").exists()


def test_verify_and_summary_speak_plain_words(log: AuditLog) -> None:
    status, text = _run("audit", "verify", log.path)
    assert status == 0 and text.startswith("6 lines, the last has the hash ")
    assert "key key-0:" in _run("audit", "summary", log.path)[1]
    log.path.write_bytes(b"".join(_lines(log)[1:]))
    status, text = _run("audit", "verify", log.path)
    assert status == 1 and text.startswith("WRONG: line 1 was written as line 2")
    status, text = _run("audit", "verify", log.path.parent / "absent")
    assert status == 2 and text.startswith("error: audit: cannot read ")
