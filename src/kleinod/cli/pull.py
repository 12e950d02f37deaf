"""`kleinod pull`: fetch a model, once its licence is accepted where that is needed."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kleinod import catalog, hub, licenses
from kleinod.audit import audit_log
from kleinod.cli.options import QuietButPath
from kleinod.display import printable
from kleinod.errors import InputError


def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name from `kleinod models`, or owner/name.")
    ],
    *,
    file: Annotated[
        list[str] | None,
        typer.Option("--file", metavar="NAME", help="Only this file; may be given several times."),
    ] = None,
    accept_license: Annotated[
        bool, typer.Option("--accept-license", help="Accept a non-commercial licence unasked.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the files and their sizes; fetch nothing.")
    ] = False,
    quiet: QuietButPath = False,
) -> None:
    """Fetch what a model needs from the hub; goes on where it was stopped."""
    names = tuple(file or ())
    listings = _listings(name, names)
    if dry_run:
        for wanted in listings:
            _print_files(wanted)
        return
    for wanted in listings:
        _print_license(wanted)
        _accept(wanted, unasked=accept_license)
    hub.check_room(*listings)
    with _bars(quiet=quiet) as progress:
        folder, *_ = [hub.download(wanted, progress) for wanted in listings]
    print(folder / names[0] if len(names) == 1 else folder)
    if not quiet and not names:
        model = name if name in catalog.KNOWN else str(folder)
        print(f'kleinod generate "a fox" --model {model}', file=sys.stderr)


def _listings(name: str, files: tuple[str, ...]) -> list[hub.Listing]:
    """What to fetch, the model first; a transformer alone needs parts of another repository."""
    listings = [hub.listing(hub.repository_of(name), files)]
    known = catalog.known_model(name)
    if known is None or not known.is_transformer_only or files:
        return listings
    if catalog.components_folder(known) is None:
        whole = catalog.whole_models(known.size)[0]
        listings.append(hub.listing(str(whole.repository), folders=catalog.SHARED_FOLDERS))
    return listings


def _print_files(wanted: hub.Listing) -> None:
    for file in wanted.files:
        note = "  here" if file.is_here else ""
        print(f"{file.num_bytes / 1e6:12,.2f} MB  {printable(file.name)}{note}")
    total = sum(file.num_bytes for file in wanted.files)
    print(
        f"{total / 1e6:12,.2f} MB  {wanted.repository}, {wanted.missing_bytes / 1e6:,.2f} to fetch"
    )
    print(f"licence: {printable(wanted.license)}")


def _print_license(wanted: hub.Listing) -> None:
    line = printable(f"{wanted.repository}: {wanted.license} ({wanted.url})")
    print(line, file=sys.stderr)


def _accept(wanted: hub.Listing, *, unasked: bool) -> None:
    """Ask once where the licence forbids commercial use. Raises InputError."""
    name, license = wanted.repository, wanted.license
    if not wanted.is_non_commercial or licenses.is_accepted(name, license):
        return
    if not unasked:
        if not _is_terminal():
            raise InputError(
                f"license: {name} is under the {license}, which has to be accepted; read "
                f"{wanted.url} and give --accept-license"
            )
        question = f"The {license} forbids commercial use and demands filters. Do you accept it?"
        if not typer.confirm(question, err=True):
            raise InputError(f"license: not accepted; {name} was not fetched")
    licenses.accept(name, license)
    audit_log.append(audit_log.Event("license_accepted", facts={"model": name, "license": license}))


@contextmanager
def _bars(*, quiet: bool) -> Iterator[hub.Progress]:
    """A bar for each large file, on stderr where that is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden) as progress:
        tasks = {}

        def report(name: str, num_here: int, num_bytes: int) -> None:
            if name not in tasks:
                shown = escape(printable(name, limit=100))
                tasks[name] = progress.add_task(shown, total=num_bytes)
            progress.update(tasks[name], completed=num_here)

        yield report


def _is_terminal() -> bool:
    return sys.stdin.isatty()
