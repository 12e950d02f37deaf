"""The tables of `kleinod bench`."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_ROWS = {
    "encode_reference": "encode a reference",
    "text": "text",
    "per_step": "a step",
    "denoise": "all steps",
    "decode": "decode",
    "total": "whole call",
}


def print_speed(report: Mapping[str, Any]) -> None:
    """Facts, the table of stages, memory, rates."""
    console = Console(highlight=False)
    for line in _facts(report):
        console.print(Text(line), soft_wrap=True)
    console.print(_stages(report))
    for peer in report["ratios"]:
        console.print(_against(report, peer))
    for line in _notes(report):
        console.print(Text(line), soft_wrap=True)


def _facts(report: Mapping[str, Any]) -> Iterable[str]:
    facts, machine = report["engines"]["kleinod"]["facts"], report["machine"]
    side, references = facts["size"], facts["num_references"]
    yield (
        f"{facts['model']}: {side} × {side}, {facts['num_steps']} steps, {references} references, "
        f"{facts['dtype']} on {facts['device']}, offload {facts['offload']}"
        + (f", computed in {facts['quantize']}" if facts["quantize"] else "")
        + (", compiled" if facts["is_compiled"] else "")
        + f", attention: {facts['attention']}"
    )
    instructions = ", ".join(machine["instructions"])
    yield (
        f"{machine['processor']}, {facts['threads']} threads"
        + (f", {instructions}" if instructions else "")
        + f"; torch {facts['torch']}"
        + (f"; {facts['accelerator']}" if facts["accelerator"] else "")
    )


def _stages(report: Mapping[str, Any]) -> Table:
    table = _table("seconds", "kleinod", "floor", "times floor")
    own, floors = report["engines"]["kleinod"], report["floor_seconds"]
    times = report["times_floor"]
    table.add_row("load", _number(own["load_seconds"]), "", "")
    table.add_row("first call", _number(own["first_seconds"]["total"]), "", "")
    rows = {title: (own["seconds"][stage], stage) for stage, title in _ROWS.items()}
    known = own["known_prompt_seconds"]["total"]
    rows["whole call, prompt known"] = known, "known_prompt"
    for title, (seconds, stage) in rows.items():
        over = _spread(times[stage], digits=2)
        table.add_row(title, _spread(seconds), _number(floors[stage]), over)
    return table


def _against(report: Mapping[str, Any], peer: str) -> Table:
    table = _table("seconds", "kleinod", peer, "ratio")
    (own, other), ratios = (report["engines"][n] for n in ("kleinod", peer)), report["ratios"][peer]
    load = other["load_seconds"] / own["load_seconds"]
    table.add_row("load", *(_number(e["load_seconds"]) for e in (own, other)), f"{load:.2f}")
    rows = {
        title: (own["seconds"][stage], other["seconds"][stage], ratios[stage])
        for stage, title in _ROWS.items()
        if stage in ratios
    }
    known = own["known_prompt_seconds"]["total"]
    rows["whole call, prompt known"] = known, other["seconds"]["total"], ratios["known_prompt"]
    for title, (ours, theirs, ratio) in rows.items():
        medians = (_number(seconds["median"]) for seconds in (ours, theirs))
        table.add_row(title, *medians, _spread(ratio, digits=2))
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for index, column in enumerate(columns):
        table.add_column(column, justify="right" if index else "left", no_wrap=True)
    return table


def _notes(report: Mapping[str, Any]) -> Iterable[str]:
    for name, engine in report["engines"].items():
        peaks = {place: value for place, value in engine["memory"].items() if value}
        told = ", ".join(
            f"{place.removesuffix('_bytes')} {value / 1e9:.2f} GB" for place, value in peaks.items()
        )
        yield f"{name}: {engine['pictures_per_minute']:.2f} pictures a minute; peak memory {told}"
    for peer, ratios in report["ratios"].items():
        if "memory" in ratios:
            yield f"{peer} takes {ratios['memory']['median']:.2f} times kleinod's resident memory"
    rates = report["operations_per_second"]
    told = ", ".join(f"{name} {rate['high'] / 1e9:,.0f}" for name, rate in rates.items())
    yield f"floor: the model's operations at the best GFLOPS measured beside the calls: {told}"
    yield "times floor: each call's seconds over its floor at the rates right before and after it"
    yield "medians, in brackets lowest and highest; ratio: theirs over ours in the same round"


def _number(value: float, digits: int | None = None) -> str:
    if digits is None:
        digits = 2 if value >= 10 else 3 if value >= 0.1 else 4
    return f"{value:.{digits}f}"


def _spread(values: Mapping[str, Any], digits: int | None = None) -> str:
    low, high = _number(values["low"], digits), _number(values["high"], digits)
    return f"{_number(values['median'], digits)} ({low}–{high})"


def print_quality(report: Mapping[str, Any]) -> None:
    """One row a mode, then what the modes are."""
    console = Console(highlight=False)
    plan, count = report["plan"], len(report["prompts"])
    console.print(Text(f"{plan['model']}: {count} pictures a mode"), soft_wrap=True)
    table = _table("mode", "PSNR", "lowest", "SSIM", "right", "seconds", "transformer", "peak")
    for row in report["modes"]:
        table.add_row(row["name"], *_costs(row), *_savings(row))
    console.print(table)
    for row in report["modes"]:
        console.print(Text(f"{row['name']}: {row['what']}"), soft_wrap=True)
    console.print(Text(_LEGEND), soft_wrap=True)


_LEGEND = (
    "PSNR in dB and SSIM against the exact mode's pictures, over all and of the worst; right: "
    "share of pictures that show what their prompt names, by the oracle; seconds a picture, "
    "median; bytes of the transformer's file and the most memory of the process"
)


def _costs(row: Mapping[str, Any]) -> Iterable[str]:
    if "ssim" in row:
        yield from (_decibels(row["psnr"]), _decibels(row["lowest_psnr"]), f"{row['ssim']:.4f}")
    else:
        yield from ("", "", "")
    yield f"{row['accuracy']['concept']:.0%}"


def _savings(row: Mapping[str, Any]) -> Iterable[str]:
    peaks = row["memory"]
    peak = peaks["device_bytes"] or peaks["resident_bytes"]
    yield _number(row["seconds"]["median"])
    yield f"{row['transformer_bytes'] / 1e6:,.1f} MB"
    yield f"{peak / 1e6:,.0f} MB" if peak else ""


def _decibels(value: float | None) -> str:
    return "equal" if value is None else f"{value:.1f}"
