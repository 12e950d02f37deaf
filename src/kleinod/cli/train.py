"""`kleinod train`: fine-tune a model on a folder of pictures and captions."""

import json as jsonlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kleinod.cli.progress_bars import progress_bars
from kleinod.display import printable

if TYPE_CHECKING:
    from kleinod.training.configuration import FinetuneRecipe

# names of files and sizes that a line shows before it counts the rest
_SHOWN = 3
# the shell's convention for a process that a signal ended
_SIGNAL_STATUS = 128


def train(
    recipe: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="A TOML file; docs/training.md names its fields."),
    ],
    *,
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines only: data, steps, output.")
    ] = False,
) -> None:
    """Fine-tune a model on a folder of pictures and captions; resumes a run that was stopped."""
    from kleinod.training import distributed, finetune  # late: torch takes a second
    from kleinod.training.interruption import TrainingInterrupted

    settings = finetune.read_recipe(recipe)
    try:
        with progress_bars(quiet=False) as progress:
            listeners = finetune.Listeners(
                progress, data=_data_listener(json), record=_record_listener(json, settings.steps)
            )
            folder = finetune.finetune(settings, listeners=listeners)
        is_first = distributed.start()[0] == 0
    except TrainingInterrupted as stopped:
        print(f"{stopped}; {_resuming(settings)}", file=sys.stderr)
        raise typer.Exit(_SIGNAL_STATUS + stopped.signal_number) from stopped
    except KeyboardInterrupt:
        print(_resuming(settings), file=sys.stderr)
        raise
    finally:
        # after an error, too: threads of a group that is left abort the process at its end
        distributed.stop()
    if is_first:
        print(jsonlib.dumps({"event": "output", "folder": str(folder)}) if json else folder)


def _resuming(settings: "FinetuneRecipe") -> str:
    """What a stopped run has left, in one line."""
    from kleinod.training import checkpoints

    facts = checkpoints.read_facts(Path(settings.run) / "flow.safetensors")
    if facts is None:
        return "no checkpoint was written yet; the same command starts again"
    return f"the same command resumes from step {facts['step']} in {settings.run}"


def _data_listener(is_json: bool) -> Callable[[dict[str, Any]], None]:
    def tell(summary: dict[str, Any]) -> None:
        if is_json:
            print(jsonlib.dumps({"event": "data"} | summary), flush=True)
            return
        for line in _summary_lines(summary):
            print(line, file=sys.stderr, flush=True)

    return tell


def _record_listener(is_json: bool, steps: int) -> Callable[[dict[str, Any]], None]:
    """JSON lines for scripts, as they were before --json, and a sentence on a terminal."""
    is_for_people = not is_json and sys.stdout.isatty()

    def tell(record: dict[str, Any]) -> None:
        if is_for_people:
            print(
                f"step {record['step']} of {steps}: loss {record['loss']:.4f}, "
                f"{record['samples_per_second']:.1f} pictures/s"
            )
            return
        event = {"event": "step"} if is_json else {}
        print(jsonlib.dumps(event | record, allow_nan=False), flush=True)

    return tell


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    """The folder's contents for people."""
    lines = [
        f"data: {_counted(summary['pictures'], 'picture')}, "
        f"{_counted(summary['captions'], 'caption')}, "
        f"{_counted(summary['references'], 'reference')} in {summary['folder']}",
        f"sizes: {_sizes(summary['sizes'])}",
    ]
    if summary["left_out"]:
        left_out = [f"{printable(e['file'])} ({e['reason']})" for e in summary["left_out"]]
        lines.append(f"left out: {_some(left_out)}")
    if summary["empty_captions"]:
        lines.append(f"empty captions: {_some(map(printable, summary['empty_captions']))}")
    if summary["cut_captions"]:
        names = _some(map(printable, summary["cut_captions"]))
        lines.append(
            f"captions cut after the {summary['max_text_tokens']} tokens that "
            f"{summary['model']} reads: {names}"
        )
    lines.append(_plan(summary))
    return lines


def _plan(summary: dict[str, Any]) -> str:
    step, steps, run = summary["step"], summary["steps"], summary["run"]
    if step == steps:
        return f"training: {run} is complete at step {step}; only the model is written"
    return f"training: {summary['model']}, steps {step + 1} to {steps}, checkpoints in {run}"


def _sizes(sizes: list[dict[str, int]]) -> str:
    most_first = sorted(sizes, key=lambda size: -size["pictures"])
    return _some(
        f"{s['pictures']} of {s['width']}x{s['height']}"
        + (f" with {_counted(s['references'], 'reference')}" if s["references"] else "")
        + f" (batch {s['batch']})"
        for s in most_first
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _some(items: Iterable[str]) -> str:
    """The first of a list, and how many more there are."""
    shown = list(items)
    more = len(shown) - _SHOWN
    return ", ".join(shown[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
