"""What `kleinod models` prints for people: the list, and one model with its vocabulary."""

import shutil
import sys
from typing import Any

from kleinod.display import printable
from kleinod.runtime.hardware import Memory

_HEAD = ("NAME", "VARIANT", "FORMAT", "LICENCE", "ON DISK", "MEMORY", "FITS", "WHERE")
_MIN_COLUMNS, _GAP = 40, 2
# how much of a model is in memory, by offload policy
_WORDS = {"none": "all components at once", "model": "one at a time"}
_FITS = {"none": "yes", "model": "one at a time", None: "no"}


def print_models(rows: list[dict[str, Any]], device: Memory) -> None:
    """A line for each model."""
    table = [_HEAD, *map(_cells, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(cells, widths, strict=True)).rstrip()
        )
    # a remark for people, not a row
    print(_remark(device), file=sys.stderr)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    memory = row["memory_bytes"]
    cells = (
        row["name"],
        row["variant"],
        row["format"],
        row["license"],
        _size(row["bytes"]),
        "unknown" if memory is None else "/".join(map(_size, memory.values())),
        _fits(row),
        row["path"] or f"not here ({row['repository']})",
    )
    # names and paths come from files and from the environment
    return tuple(map(printable, cells))


def _fits(row: dict[str, Any]) -> str:
    is_known = row["memory_bytes"] is not None and row["device_bytes"] is not None
    return _FITS[row["fits"]] if is_known else "unknown"


def _remark(device: Memory) -> str:
    size = "of unknown size" if device.num_bytes is None else f"of {_size(device.num_bytes)}"
    return (
        f"memory: an estimate, all components at once/one at a time (--offload model); "
        f"compared with {device.device} {size}"
    )


def print_model(report: dict[str, Any]) -> None:
    """The facts of one model, then what it knows."""
    memory = report["memory_bytes"] or {}
    where = report["path"] or f"not here; run `{report['get']}`"
    components = report["components"]
    facts = {
        "variant": report["variant"],
        "format": report["format"],
        "licence": report["license"],
        "repository": report["repository"],
        "file": report["file"],
        "components": components and f"text encoder and autoencoder are those of {components}",
        "on disk": _size(report["bytes"]),
        "memory": ", ".join(f"{_size(size)} {_WORDS[name]}" for name, size in memory.items()),
        "fits": f"{_fits(report)} ({report['device']}, {_size(report['device_bytes'])})",
        "where": where,
    }
    print(printable(report["name"]))
    for name, value in facts.items():
        if value:
            print(f"{name:12}{printable(value)}")
    if report.get("vocabulary"):
        _print_vocabulary(report["vocabulary"], report)


def _print_vocabulary(known: dict[str, Any], report: dict[str, Any]) -> None:
    sizes = ", ".join(f"{width}x{height}" for width, height in known["native_sizes"])
    print(f"{'trained at':12}{sizes or 'any size'}")
    print(f"{'reads':12}{report['max_text_tokens']} tokens, the chat template included")
    if known["max_references"] is not None:
        print(f"{'references':12}at most {known['max_references']}")
    _print_columns(f"{len(known['objects'])} objects", [one["name"] for one in known["objects"]])
    lists = {
        "styles": known["styles"],
        "backgrounds (BACKGROUND)": known["backgrounds"],
        "colors of an object (COLOR)": known["colors"],
    }
    for title, texts in lists.items():
        _print_columns(title, texts)
    _print_lines("phrases", known["phrases"])
    _print_lines("edits of a reference image (-r)", known["edit_phrases"])
    _print_lines("two reference images (-r, -r)", known["joining_phrases"])
    _print_lines("to try", [f'kleinod generate "{text}"' for text in known["examples"]])


def _print_columns(title: str, texts: list[str]) -> None:
    """Down the columns, as many as the terminal has room for."""
    if not texts:
        return
    print(f"\n{title}")
    texts = list(map(printable, texts))
    width = max(map(len, texts)) + _GAP
    room = max(_MIN_COLUMNS, shutil.get_terminal_size().columns) - _GAP
    num_rows = -(-len(texts) // max(1, room // width))
    for row in range(num_rows):
        cells = (f"{text:{width}}" for text in texts[row::num_rows])
        print(" " * _GAP + "".join(cells).rstrip())


def _print_lines(title: str, texts: list[str]) -> None:
    if texts:
        print(f"\n{title}")
        for text in texts:
            print(f"  {printable(text)}")


def _size(num_bytes: int | None) -> str:
    if num_bytes is None:
        return "unknown"
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
