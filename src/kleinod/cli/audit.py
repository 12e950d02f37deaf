"""`kleinod audit`: is the operator's log whole, and what is in it? Needs no torch."""

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from kleinod.audit import audit_log, audit_log_reader
from kleinod.cli.commands import Command, Group
from kleinod.display import printable

_File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE",
        help="The log. Default: $KLEINOD_AUDIT_LOG, else the configuration folder's.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")]

app = typer.Typer(cls=Group, help="Check and count the operator's audit log.", no_args_is_help=True)


@app.command(cls=Command)
def verify(
    file: _File = None,
    *,
    expect: Annotated[
        str | None, typer.Option(metavar="HASH", help="A hash printed earlier: must be in the log.")
    ] = None,
    json: _Json = False,
) -> None:
    """Say whether a line was removed, changed or moved (status 1), and print the last hash."""
    report = audit_log_reader.verify(_log(file), expected=expect)
    if json:
        told = {"problems": report.problems, "notes": report.notes}
        print(jsonlib.dumps({**told, "num_lines": report.num_lines, "hash": report.hash}))
    else:
        end = f"{report.num_lines} lines, the last has the hash {report.hash}"
        wrong = (f"WRONG: {line}" for line in report.problems)
        print("\n".join(map(printable, (*wrong, *report.notes, end))))
    if report.problems:
        raise typer.Exit(1)


@app.command(cls=Command)
def summary(
    file: _File = None,
    *,
    since: Annotated[str, typer.Option(metavar="TIME", help="From 2026, 2026-11-25 … (UTC).")] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Before this time (UTC).")] = "",
    json: _Json = False,
) -> None:
    """Count entries by event, by category and by key."""
    found = audit_log_reader.summary(_log(file), since=since, until=until)
    if json:
        keys = {key: dict(counts) for key, counts in found.keys.items()}
        told = {"events": dict(found.events), "categories": dict(found.categories), "keys": keys}
        print(jsonlib.dumps({**told, "first": found.first, "last": found.last}))
        return
    first, last = printable(found.first or "–"), printable(found.last or "–")
    print(f"{sum(found.events.values())} entries, {first} to {last}")
    _print_counts("event", found.events)
    _print_counts("category", found.categories)
    for key, counts in sorted(found.keys.items()):
        _print_counts(f"key {key}", counts)


def _print_counts(title: str, counts: Counter[str]) -> None:
    if counts:
        print(f"{printable(title)}:")
        print("\n".join(f"{count:9}  {printable(name)}" for name, count in counts.most_common()))


def _log(file: Path | None) -> audit_log.AuditLog:
    if file is not None:
        return audit_log.AuditLog(file)
    return audit_log.configured() or audit_log.AuditLog(audit_log.default_path())
