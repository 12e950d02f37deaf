"""The operator's audit log: one JSON object a line, each with the hash of the line before it.

    KLEINOD_AUDIT_LOG      a file, `on` (audit.jsonl in the configuration folder) or `off`
    KLEINOD_AUDIT_PROMPTS  `hashed` (default) or `plain`

`append(Event(...))` is all that a caller needs; nothing is written where no log is configured.
Beside FILE lie FILE.head (number of lines and hash of the last one: a cut end is seen), FILE.key (a
random key, readable by its owner alone, without which nobody can guess a prompt from its hash) and
FILE.lock. A line is on the disk before `append` returns. Several processes may append at once. A
line that a crash left half written stays, is closed and is told by the next entry. Reading:
audit_reading.py.
"""

import datetime
import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from kleinod import fileio
from kleinod.catalog import config_folder
from kleinod.errors import InputError, ModeratedError

SCHEMA = "kleinod-audit/1"
FIRST = "0" * 64
# what the log says of itself
RECOVERED, GAP = "recovered", "gap"
_WAIT_SECONDS = 30
_BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Event:
    """What happened: `generated`, `moderated`, `failed`, `license_accepted`, `key_created`, …

    `key` is the name or number of an API key, never its secret; categories are those of the
    verdicts that blocked; facts is JSON: seed, model, picture_sha256, watermark, …
    """

    name: str
    key: str = ""
    categories: tuple[str, ...] = ()
    prompt: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A whole line of the log: its number, its hash, and what it says (None: half written)."""

    index: int
    hash: str
    entry: dict[str, Any] | None


@dataclass(frozen=True)
class AuditLog:
    """A log file. Raises InputError where it cannot be written."""

    path: Path
    keeps_words: bool = False

    def append(self, event: Event) -> Line:
        """Write one entry, on the disk before this returns."""
        with self._open() as stream:
            end = _end(stream)
            events = [*self._notes(stream, end), event]
            data, line = b"" if end is None or end.is_closed else b"\n", end.line if end else None
            for each in events:
                body = self._encoded(each, line)
                line = Line(line.index + 1 if line else 0, line_hash(body), parsed(body))
                data += body + b"\n"
            stream.seek(0, os.SEEK_END)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
            assert line is not None
            self._write_head(line)
            return line

    def check(self) -> None:
        """Raise InputError unless an entry could be written now."""
        with self._open() as stream:
            stream.seek(0, os.SEEK_END)

    def hashed(self, prompt: str) -> str:
        """What stands in this log for a prompt: HMAC-SHA256 with the log's own key."""
        return hmac.new(self._key(), prompt.encode(), "sha256").hexdigest()

    @property
    def head_path(self) -> Path:
        """The file that holds the number of lines and the last line's hash."""
        return self.path.with_name(self.path.name + ".head")

    def _notes(self, stream: IO[bytes], end: "_End | None") -> Iterator[Event]:
        """What the log has to say of itself first: a line half written, an end that was cut."""
        if end is not None and not end.is_closed and end.line.entry is None:
            yield Event(RECOVERED, facts={"index": end.line.index})
        head = read_head(self)
        is_new = end is None or end.line.index == 0
        if (head is None and not is_new) or (head and not _holds(stream, head, end)):
            count, digest = head or (None, None)
            yield Event(GAP, facts={"lines": count, "hash": digest})

    def _encoded(self, event: Event, last: Line | None) -> bytes:
        """One line, in the order in which it is read."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry: dict[str, Any] = {"schema": SCHEMA, "index": last.index + 1 if last else 0}
        entry |= {"time": now, "event": event.name, "key": event.key}
        entry |= {"categories": list(event.categories)}
        if event.prompt is not None and self.keeps_words:
            entry["prompt"] = event.prompt
        elif event.prompt is not None:
            entry["prompt_hmac"] = self.hashed(event.prompt)
        entry |= {"facts": dict(event.facts), "previous": last.hash if last else FIRST}
        return json.dumps(entry, ensure_ascii=True, separators=(",", ":")).encode()

    def _write_head(self, line: Line) -> None:
        fileio.write_atomic(self.head_path, f"{line.index + 1} {line.hash}\n")

    def _key(self) -> bytes:
        path = self.path.with_name(self.path.name + ".key")
        try:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError:
            pass
        else:
            with os.fdopen(handle, "w", encoding="ascii") as stream:
                stream.write(secrets.token_hex(32))
        key = path.read_text(encoding="ascii")
        if len(key) != 64:
            raise InputError(f"KLEINOD_AUDIT_LOG: {path} is no key; restore it or delete it")
        return key.encode()

    @contextmanager
    def _open(self) -> Iterator[IO[bytes]]:
        """The log, ours alone for as long as it is open."""
        import filelock

        lock = filelock.FileLock(f"{self.path}.lock", timeout=_WAIT_SECONDS)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            with lock:
                flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
                with os.fdopen(os.open(self.path, flags, 0o600), "r+b") as stream:
                    yield stream
        except OSError as error:  # a timeout of the lock is one, too
            raise InputError(
                f"KLEINOD_AUDIT_LOG: {self.path} cannot be written ({error}); name another file, "
                "or `off`"
            ) from error


def configured(*, default: Path | None = None) -> AuditLog | None:
    """The log that the environment names, else one at `default`; None: there is none.

    A server gives `default=default_path()`: then the log is on unless it is switched off.
    """
    value = os.environ.get("KLEINOD_AUDIT_LOG", "")
    if value == "off" or (not value and default is None):
        return None
    words = os.environ.get("KLEINOD_AUDIT_PROMPTS", "hashed")
    if words not in ("hashed", "plain"):
        raise InputError(f"KLEINOD_AUDIT_PROMPTS: {words!r} is neither hashed nor plain")
    path = Path(value).expanduser() if value not in ("", "on") else default or default_path()
    return AuditLog(path, keeps_words=words == "plain")


def default_path() -> Path:
    """audit.jsonl in the configuration folder."""
    return config_folder() / "audit.jsonl"


def append(event: Event, log: AuditLog | None = None) -> None:
    """Write an event to `log`, else to the configured one, else nowhere. Raises InputError."""
    log = log or configured()
    if log is not None:
        log.append(event)


def generated(receipt: Mapping[str, Any], data: bytes, *, key: str = "") -> Event:
    """The entry of a finished picture file: what finds it again, by its bytes or its watermark."""
    request = receipt["request"]
    facts = {
        "model": receipt["model"]["name"],
        "seed": request["seed"],
        "width": request["width"],
        "height": request["height"],
        "num_references": len(request["reference_images"]),
        "watermark": receipt["watermark"].get("payload"),
        "painted_sha256": receipt["picture"]["painted_sha256"],
        "file_sha256": line_hash(data),
    }
    return Event("generated", key=key, prompt=request.get("prompt"), facts=facts)


@contextmanager
def telling_stops(prompt: str | None) -> Iterator[None]:
    """Tell the configured log what a filter stops in here, before it goes on. Raises InputError."""
    try:
        yield
    except ModeratedError as error:
        append(moderated(error, prompt=prompt))
        raise


class Stopped(Protocol):
    """What a filter raises: the moment, and the verdicts that stopped it."""

    moment: str
    verdicts: tuple[Any, ...]


def moderated(error: Stopped, *, key: str = "", prompt: str | None = None) -> Event:
    """The entry of something that a filter stopped."""
    categories = dict.fromkeys(str(verdict.category) for verdict in error.verdicts)
    filters = [f"{verdict.filter} {verdict.version}" for verdict in error.verdicts]
    facts = {"moment": error.moment, "filters": filters}
    return Event("moderated", key=key, categories=tuple(categories), prompt=prompt, facts=facts)


def line_hash(data: bytes) -> str:
    """Of a line without its end."""
    return hashlib.sha256(data).hexdigest()


def parsed(data: bytes) -> dict[str, Any] | None:
    """The entry on a line; None if it is none."""
    try:
        entry = json.loads(data)
    except (ValueError, RecursionError):
        return None
    is_entry = isinstance(entry, dict) and entry.get("schema") == SCHEMA
    return entry if is_entry and type(entry.get("index")) is int else None


def read_head(log: AuditLog) -> tuple[int, str] | None:
    """Number of lines and hash of the last one, as they were noted; None: nothing was."""
    try:
        count, digest = log.head_path.read_text(encoding="ascii").split()
        return int(count), digest
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return 0, "unreadable"


@dataclass(frozen=True)
class _End:
    """The last line; is_closed: it ends as a line does."""

    line: Line
    is_closed: bool


def _end(stream: IO[bytes]) -> _End | None:
    tail, start = b"", stream.seek(0, os.SEEK_END)
    # two whole lines: the last may be half written
    while start > 0 and tail.count(b"\n") < 3:
        start = max(0, start - _BLOCK_BYTES)
        stream.seek(start)
        tail = stream.read()
    if not tail:
        return None
    lines = tail.removesuffix(b"\n").split(b"\n")
    index = _index(lines)
    if index is None:
        stream.seek(0)
        index = sum(1 for _ in stream) - 1
    return _End(Line(index, line_hash(lines[-1]), parsed(lines[-1])), tail.endswith(b"\n"))


def _index(lines: list[bytes]) -> int | None:
    """The number of the last line, counted on from one that says its own."""
    for back, data in enumerate(reversed(lines)):
        entry = parsed(data)
        if entry is not None:
            return int(entry["index"]) + back
    return None


def _holds(stream: IO[bytes], head: tuple[int, str], end: _End | None) -> bool:
    """Whether the line that the head names is in the log; a crash leaves the head behind."""
    if end is not None and (end.line.index + 1, end.line.hash) == head:
        return True
    stream.seek(0)
    return any(line_hash(data.removesuffix(b"\n")) == head[1] for data in stream)
