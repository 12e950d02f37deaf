"""`kleinod keys create|list|revoke`: who may use the server."""

import json as jsonlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kleinod.cli.commands import Command, Group
from kleinod.display import printable
from kleinod.extras import missing_package

if TYPE_CHECKING:
    from kleinod.server.job_queue.api_keys import KeyRecord, Keys

keys = typer.Typer(
    cls=Group, help="Make, list and revoke the keys of `kleinod serve`.", no_args_is_help=True
)

_Config = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE.toml",
        help="Settings. Default: kleinod.toml here or in the user's folder.",
    ),
]
_Json = Annotated[bool, typer.Option("--json", help="Print JSON instead.")]


@keys.command(cls=Command)
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose key it is, for the list.")],
    *,
    concurrent: Annotated[
        int | None, typer.Option(help="Unfinished jobs at once. Default: the server's limit.")
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="New jobs per minute. Default: the server's limit.")
    ] = None,
    config: _Config = None,
    json: _Json = False,
) -> None:
    """Make a key and print it; it is shown only now."""
    with _opened(config) as opened:
        made = opened.create(name, max_concurrent=concurrent, requests_per_minute=per_minute)
        _audit(made.record, "key_created")
    if json:
        print(jsonlib.dumps(_facts(made.record) | {"key": made.secret}))
    else:
        print(made.secret)


@keys.command("list", cls=Command)
def list_keys(*, config: _Config = None, json: _Json = False) -> None:
    """List the keys, without their secrets."""
    with _opened(config) as opened:
        records = opened.all()
    if json:
        print(jsonlib.dumps([_facts(record) for record in records]))
        return
    if not records:
        # a remark for people, not a row
        print("no keys yet; make one with kleinod keys create NAME", file=sys.stderr)
    for record in records:
        state = f"revoked {record.revoked_at:%Y-%m-%d}" if record.revoked_at else "valid"
        limits = f"{_or(record.max_concurrent)} at once, {_or(record.requests_per_minute)} a minute"
        made = f"{record.created_at:%Y-%m-%d}"
        print(f"{record.id}  {made}  {state:18}  {limits}  {printable(record.name)}")


@keys.command(cls=Command)
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="From `kleinod keys list`.")],
    *,
    config: _Config = None,
) -> None:
    """End a key's validity at once; its jobs in the queue are still finished."""
    with _opened(config) as opened:
        record = opened.revoke(key_id)
        _audit(record, "key_revoked")
    print(f"{record.id} ({printable(record.name)}) is revoked")


@contextmanager
def _opened(config: Path | None) -> "Iterator[Keys]":
    """The keys of the configured database. Raises InputError."""
    try:
        from kleinod.server import settings
        from kleinod.server.job_queue import api_keys, database
    except ModuleNotFoundError as error:
        raise missing_package("keys", str(error.name), extra="serve") from error
    opened = database.Database(settings.load(config).database)
    try:
        opened.migrate()
        yield api_keys.Keys(opened)
    finally:
        opened.close()


def _audit(record: "KeyRecord", name: str) -> None:
    from kleinod.server import auditing

    auditing.key_changed(auditing.log(), record, name)


def _facts(record: "KeyRecord") -> dict[str, Any]:
    moments = ("created_at", "revoked_at")
    facts = asdict(record)
    return facts | {name: facts[name] and facts[name].isoformat() for name in moments}


def _or(limit: int | None) -> str:
    return "default" if limit is None else str(limit)
