"""`kleinod inspect`: what a file or folder is, told from its headers alone."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kleinod.display import printable

if TYPE_CHECKING:
    from kleinod.weights.inspect_model import Inspection, Part


def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="A weight file, a folder or a model's name.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Tell what a file or folder is, in which formats, what it needs and how to use it."""
    from kleinod.weights.inspect_model import inspected  # late: the other commands need none of it

    report = _report(inspected(path))
    if json:
        print(jsonlib.dumps(report))
    else:
        _print_report(report)


def _report(inspection: "Inspection") -> dict[str, Any]:
    from kleinod.weights import requirements

    variant = inspection.variant
    return {
        "path": str(inspection.path.absolute()),
        "what": inspection.title,
        "variant": variant.name if variant else None,
        "variant_evidence": variant.evidence if variant else None,
        "license": requirements.license_of(inspection),
        "components": [_component(part, inspection) for part in inspection.parts],
        "missing": list(inspection.missing),
        "memory_bytes": requirements.memory(inspection),
        "memory_assumes": list(requirements.assumed(inspection)),
        "command": requirements.command(inspection),
        "notes": list(inspection.notes),
    }


def _component(part: "Part", inspection: "Inspection") -> dict[str, Any]:
    from kleinod.weights import requirements

    finding = part.finding
    return {
        "component": finding.component,
        "what": finding.title,
        "family": finding.family,
        "size": finding.size,
        "path": str(part.path.absolute()),
        "layout": finding.layout,
        "container": part.container,
        "numbers": dict(finding.numbers),
        "parameters": part.parameters,
        "tensors": len(part.entries),
        "bytes": part.num_bytes,
        "memory_bytes": requirements.held_bytes(part, inspection.info),
        "groups": [
            {
                "layers": group.name,
                "formats": dict(group.formats),
                "parameters": group.parameters,
                "bytes": group.num_bytes,
            }
            for group in part.groups
        ],
    }


def _print_report(report: dict[str, Any]) -> None:
    console = Console(highlight=False)
    console.print(Text(printable(report["what"]), style="bold"))
    facts = {
        "path": report["path"],
        "variant": report["variant_evidence"]
        and f"{report['variant'] or 'unknown'} ({report['variant_evidence']})",
        "licence": report["license"],
        "missing": ", ".join(report["missing"]),
        "memory": _memory(report["memory_bytes"], report["memory_assumes"]),
    }
    for name, value in facts.items():
        if value:
            console.print(Text(printable(f"{name:10}{value}")), soft_wrap=True)
    for component in report["components"]:
        _print_component(console, component)
    for note in report["notes"]:
        console.print(Text(printable(f"note: {note}"), style="yellow"), soft_wrap=True)
    if report["command"]:
        console.print(Text("\n" + printable(report["command"], limit=4000)), soft_wrap=True)


def _print_component(console: Console, component: dict[str, Any]) -> None:
    numbers = (f"{name.replace('_', ' ')} {n}" for name, n in component["numbers"].items())
    details = ", ".join((component["layout"], component["container"], *numbers))
    title = printable(f"{component['what']}: {details}")
    console.print(Text("\n" + title), soft_wrap=True)
    if not component["groups"]:
        return
    table = Table(box=None, pad_edge=False)
    table.add_column("layers", no_wrap=True)
    for column in ("tensors", "parameters", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("stored as")
    for group in (*component["groups"], _total(component)):
        formats = sorted(group["formats"].items(), key=lambda item: -item[1])
        table.add_row(
            Text(printable(group["layers"])),
            str(sum(group["formats"].values())),
            f"{group['parameters']:,}",
            _size(group["bytes"]),
            Text(printable("; ".join(f"{stored} × {count}" for stored, count in formats))),
        )
    console.print(table)


def _total(component: dict[str, Any]) -> dict[str, Any]:
    formats: dict[str, int] = {}
    for group in component["groups"]:
        for stored, count in group["formats"].items():
            formats[stored] = formats.get(stored, 0) + count
    return {
        "layers": "all",
        "formats": formats,
        "parameters": component["parameters"],
        "bytes": component["bytes"],
    }


def _memory(num_bytes: dict[str, int] | None, assumed: list[str]) -> str:
    if num_bytes is None:
        return ""
    policies = ", ".join(f"{name} {_size(value)}" for name, value in num_bytes.items())
    names = " and ".join(name.replace("_", " ") for name in assumed)
    rest = f", with the published {names}, not in this file" if names else ""
    return f"{policies} (by offload; an estimate{rest})"


def _size(num_bytes: int) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= factor:
            return f"{num_bytes / factor:.2f} {unit}"
    return f"{num_bytes} B"
