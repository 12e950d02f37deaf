"""Log lines: one for each record, whatever strangers put into paths, prompts and names."""

import io
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from kleinod.server import logs
from kleinod.server.job_queue import job_log
from kleinod.server.job_queue.job import Job, JobStatus, StoredImage

HOSTILE = (
    "a\n12:00:00 info forged",
    "a\r\nb",
    "a\u2028b\u2029c\u0085d",
    "\x1b]0;title\x07\x1b[8m",
    "\u202egnp\u2066",
    "\udcff\x00\x9b",
)
NOW = datetime(2026, 11, 30, tzinfo=UTC)
JOB = Job(
    *("0" * 32, "key1", "bfl", "mini", {"prompt": "a fox"}, JobStatus.READY, 1.0, NOW),
    started_at=NOW,
    finished_at=NOW + timedelta(seconds=1.5),
    results=(StoredImage("results/x/0.png", 7, 64, 64, "png"),),
    attempts=1,
)


@pytest.fixture(params=["text", "json"])
def stream(request: pytest.FixtureRequest) -> Iterator[tuple[str, io.StringIO]]:
    """Where the log goes, in either form; the handlers from before come back."""
    root, written = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    logs.install(request.param, written)
    yield request.param, written
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


def lines(stream: tuple[str, io.StringIO]) -> list[str]:
    """What was written, by every kind of line end that a reader may know."""
    text = stream[1].getvalue()
    text.encode("utf-8")
    return text.rstrip("\n").splitlines()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_record_is_one_printable_line(stream: tuple[str, io.StringIO], text: str) -> None:
    logging.getLogger("kleinod.http").info("GET %s", text, extra={"path": text})
    (line,) = lines(stream)
    assert line.isprintable()
    if stream[0] == "json":
        assert json.loads(line)["path"] == text
        assert json.loads(line)["message"].isprintable()


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_traceback_cannot_forge_a_line(stream: tuple[str, io.StringIO], text: str) -> None:
    try:
        raise ValueError(f"x\n12:00:00 info forged\n{text}")
    except ValueError:
        logging.getLogger("kleinod").exception("failed: %s", text)
    first, *rest = lines(stream)
    assert first.isprintable()
    assert all(line.startswith("    ") and line.isprintable() for line in rest)


def test_long_message_is_cut(stream: tuple[str, io.StringIO]) -> None:
    logging.getLogger("kleinod").info("a" * 10**6)
    assert len(lines(stream)[0]) < 5000


def test_warning_of_python_is_one_line(stream: tuple[str, io.StringIO]) -> None:
    logging.getLogger("py.warnings").warning("%s", "file.py:1: UserWarning: x\n  code\n")
    assert len(lines(stream)) == 1


def test_lines_say_who_paints_what(stream: tuple[str, io.StringIO]) -> None:
    job_log.log_start(JOB, has_prompt=False)
    job_log.log_end(JOB)
    job_log.log_start(replace(JOB, attempts=2), has_prompt=True)
    start, end, again = lines(stream)
    assert "a fox" not in start + end
    assert "a fox" in again and "attempt 2" in again
    if stream[0] == "json":
        facts = json.loads(end)
        assert (facts["job"], facts["model"], facts["key"]) == ("0" * 32, "mini", "key1")
        assert (facts["status"], facts["seconds"]) == ("ready", 1.5)
    else:
        assert "0" * 32 in end and "mini" in end and "1.50 s" in end


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_prompt_and_model_in_lines_are_harmless(stream: tuple[str, io.StringIO], text: str) -> None:
    job = replace(JOB, model=text, request={"prompt": text})
    job_log.log_start(job, has_prompt=True)
    job_log.log_end(job)
    assert len(lines(stream)) == 2
    assert all(line.isprintable() for line in lines(stream))
