"""Is an audit log whole, and what is in it? Reads line by line; a log may be large.

A line that was removed, changed or put elsewhere breaks the chain; a cut end is missed by
FILE.head. Whoever may write all these files can write a whole new log: note the hash that
`kleinod audit verify` prints somewhere else from time to time, and ask for it later (`expected`).
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kleinod.audit.audit_log import FIRST, GAP, RECOVERED, AuditLog, line_hash, parsed, read_head
from kleinod.errors import InputError
from kleinod.paths import open_regular_file, shown

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Report:
    """What is wrong (the first MAX_PROBLEMS), how many lines there are, and the last one's hash."""

    problems: tuple[str, ...]
    notes: tuple[str, ...]
    num_lines: int
    hash: str


@dataclass
class Summary:
    """How many entries by event, by category and by key; times of the first and the last."""

    events: Counter[str] = field(default_factory=Counter)
    categories: Counter[str] = field(default_factory=Counter)
    keys: dict[str, Counter[str]] = field(default_factory=dict)
    first: str = ""
    last: str = ""


def verify(log: AuditLog, *, expected: str | None = None) -> Report:
    """Follow the chain; `expected` is the hash of a line that must be there. Raises InputError."""
    head, chain = read_head(log), _Chain()
    wanted = {expected} | ({head[1]} if head else set())
    found: set[str | None] = {None}
    for data in _lines(log.path):
        chain.add(data)
        if chain.hash in wanted:
            found.add(chain.hash)
    problems = chain.problems
    if head is None and chain.count > 1:
        problems.append(f"{log.head_path.name} is missing: the end may have been cut")
    if head is not None and head[1] not in found:
        problems.append(f"the end was cut: the last of {head[0]} lines that were noted is missing")
    if expected not in found:
        problems.append(f"the expected line {expected} is not in this log")
    if chain.is_half and chain.is_closed:
        problems.append(f"line {chain.count} is no entry")
    notes = ["the last line is half written, by a crash; the next entry will tell it"]
    is_torn = chain.is_half and not chain.is_closed
    return Report(tuple(problems[:MAX_PROBLEMS]), tuple(notes * is_torn), chain.count, chain.hash)


class _Chain:
    """The lines so far, each with the hash of the one before it."""

    def __init__(self) -> None:
        self.count, self.hash, self.problems = 0, FIRST, list[str]()
        self.is_half, self.is_closed = False, True

    def add(self, data: bytes) -> None:
        """The next line, with its end."""
        body, previous, was_half = data.removesuffix(b"\n"), self.hash, self.is_half
        entry = parsed(body)
        self.count, self.hash = self.count + 1, line_hash(body)
        self.is_half, self.is_closed = entry is None, data.endswith(b"\n")
        if was_half and (entry is None or entry.get("event") != RECOVERED):
            self.problems.append(f"line {self.count - 1} is no entry")
        if entry is not None:
            self.problems += self._faults(entry, previous)

    def _faults(self, entry: dict[str, Any], previous: str) -> Iterator[str]:
        if entry["index"] != self.count - 1:
            yield (
                f"line {self.count} was written as line {entry['index'] + 1}: lines were removed, "
                "added or moved"
            )
        elif entry.get("previous") != previous:
            yield f"line {self.count} does not follow the one before it: one of them was changed"
        if entry.get("event") == GAP:
            lines = entry.get("facts", {}).get("lines")
            yield f"line {self.count} says that the log had been cut (it had {lines} lines)"


def summary(log: AuditLog, *, since: str = "", until: str = "") -> Summary:
    """Counts of the entries from `since` on and before `until` (beginnings of ISO times, UTC)."""
    result = Summary()
    for data in _lines(log.path):
        entry = parsed(data) or {}
        time = str(entry.get("time", ""))
        if not entry or time < since or (until and time >= until):
            continue
        event, key = str(entry.get("event")), str(entry.get("key") or "-")
        result.events[event] += 1
        result.categories.update(map(str, entry.get("categories") or ()))
        result.keys.setdefault(key, Counter())[event] += 1
        result.first, result.last = result.first or time, time
    return result


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open_regular_file(path) as stream:
            yield from stream
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"audit: cannot read {shown(path)} ({reason}); name the log's file"
        ) from error
