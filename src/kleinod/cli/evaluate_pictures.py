"""`kleinod evaluate pictures` and `removal`: how well a model of the built-in kind paints."""

import json as jsonlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from kleinod.cli.output import destination
from kleinod.cli.progress_bars import progress_bars
from kleinod.display import printable
from kleinod.errors import InputError
from kleinod.provenance.container import FORMATS

if TYPE_CHECKING:
    from kleinod.evaluation.evaluator import Evaluation, Report, Settings

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
Count = Annotated[
    int | None,
    typer.Option(min=1, help="At most so many prompts of each task, and of each kind of edit."),
]


def pictures(
    *,
    model: Annotated[str, typer.Option(help="A known model or a folder.")] = "mini",
    base: Annotated[
        str | None, typer.Option(help="A base model to compare with: 50 steps, guidance 3.")
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write all pictures with prompts and marks to this PNG.")
    ] = None,
    count: Count = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps; else the model's own.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance; else the model's own.")] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Paint stored prompts that training left out, and have the oracle mark them.

    Single objects, two objects in place, counts, other sizes, edits, several references.
    """
    from kleinod.evaluation.evaluator import Settings  # late: the other commands need no torch

    _check_sheet(sheet)
    own = Settings(num_inference_steps=steps, guidance_scale=guidance)
    runs = {model: own}
    if base is not None:
        runs[base] = Settings(num_inference_steps=50, guidance_scale=3.0)
    _check_models(*runs)
    done = {name: _evaluated(name, runs[name], count, quiet=quiet) for name in runs}
    if sheet is not None:
        _write_sheet(done[model], sheet)
    scores = {name: evaluation.scores for name, evaluation in done.items()}
    if json:
        facts = {"scores": scores, "ceiling": _ceiling(), "cases": _cases(done)}
        print(jsonlib.dumps(_finite(facts), allow_nan=False))
    else:
        _print_scores(scores)


def removal(
    *,
    concept: Annotated[str, typer.Option(help="The object that was removed, as in prompts.")],
    model: Annotated[str, typer.Option(help="The model it was removed from.")],
    before: Annotated[str, typer.Option(help="The model that still knows it.")] = "mini",
    count: Count = None,
    repeats: Annotated[
        int, typer.Option(min=1, help="Ask so many times, with other seeds; shares are means.")
    ] = 1,
    sheet: Annotated[
        Path | None, typer.Option(help="Write the pictures of both models to this PNG.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Try to get a removed object back: in words, from one reference, from several.

    Says how often the oracle sees it, before and after, and what became of the other scores.
    """
    from kleinod.evaluation import concept_removal_scores

    _check_sheet(sheet)
    _check_models(before, model)
    with progress_bars(quiet=quiet) as report:
        result = concept_removal_scores.evaluate(
            concept, (before, model), count=count, repeats=repeats, report=report
        )
    if sheet is not None:
        result.sheet.save(sheet)
    if json:
        made = {"concept": concept, "repeats": repeats, "seen": result.seen, "rest": result.rest}
        print(jsonlib.dumps(_finite({**made, "errors": result.errors}), allow_nan=False))
        return
    names = ["before", "after"]
    _print_table(f"{concept} seen, % of pictures", result.seen, names)
    others, errors = result.rest, result.errors
    if errors:
        names.append("± of the change")
        others = {row: [*means, errors[row]] for row, means in others.items()}
    _print_table("other objects", others, names)


def _check_models(*names: str) -> None:
    """Raise InputError for a model that is not there, before the first one paints for minutes."""
    from kleinod import catalog
    from kleinod.request import Components
    from kleinod.weights.folders import model_paths

    for name in names:
        model_paths(catalog.find(name), Components())


def _check_sheet(sheet: Path | None) -> None:
    """Raise InputError for a sheet that could not be written after the evaluation."""
    if sheet is None:
        return
    if not sheet.parent.is_dir():
        raise InputError(f"sheet: the folder {sheet.parent} does not exist; create it first")
    if sheet.suffix.lower() not in FORMATS or sheet.is_dir():
        raise InputError(f"sheet: {sheet} is not a picture's name; end it in {', '.join(FORMATS)}")
    try:
        destination(sheet)
    except InputError as error:
        raise InputError(str(error).replace("output", "sheet", 1)) from error


def _finite(value: Any) -> Any:  # noqa: ANN401 - plain values of any depth
    """The same with None for NaN, which JSON does not know: a score of too few pictures."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evaluated(name: str, settings: "Settings", count: int | None, *, quiet: bool) -> "Evaluation":
    from kleinod.diffusion import loading
    from kleinod.evaluation import case_set, evaluator
    from kleinod.evaluation.judge import Oracle

    cases = case_set.load()
    if count is not None:
        cases = case_set.first_of_each(cases, count)
    with progress_bars(quiet=quiet) as report:
        return evaluator.evaluate(
            loading.load_sampler(name),
            cases,
            settings=settings,
            oracle=Oracle.load(),
            report=_named(name, report),
        )


def _named(name: str, report: "Report") -> "Report":
    return lambda task, fraction: report(f"{Path(name).name}: {task}", fraction)


def _write_sheet(evaluation: "Evaluation", path: Path) -> None:
    from kleinod.evaluation.contact_sheet import sheet

    sheet(evaluation.pictures, evaluation.marks).save(path)


def _cases(done: "dict[str, Evaluation]") -> list[dict[str, Any]]:
    first = next(iter(done.values()))
    return [
        {
            "task": mark.case.task,
            "kind": mark.case.kind,
            "prompt": mark.case.prompt,
            "right": {name: e.marks[index].is_right for name, e in done.items()},
        }
        for index, mark in enumerate(first.marks)
    ]


def _ceiling() -> dict[str, float]:
    from kleinod.evaluation.case_set import FOLDER

    facts: dict[str, float] = jsonlib.loads((FOLDER / "ceiling.json").read_text("utf-8"))
    return facts


def _print_scores(scores: dict[str, dict[str, float]]) -> None:
    names = [Path(name).name for name in scores]
    rows = {
        row: [values.get(row) for values in scores.values()] for row in next(iter(scores.values()))
    }
    _print_table("scores in %", rows, names)


def _print_table(title: str, rows: Mapping[str, Sequence[float | None]], names: list[str]) -> None:
    """A column for each name; a third says what the first of two lost against the second."""
    compares = len(names) == 2 and names[0] != "before"
    table = Table(title=Text(printable(title)), title_justify="left", box=None, pad_edge=False)
    table.add_column("")
    for name in (*names, *(["points lost"] if compares else [])):
        table.add_column(Text(printable(name)), justify="right")
    for row, values in rows.items():
        cells = ["–" if value is None else f"{value:.1f}" for value in values]
        if compares and not any(word in row for word in ("error", "frechet")):
            cells.append(_lost(values))
        table.add_row(Text(printable(row)), *cells)
    Console(highlight=False).print(table)


def _lost(values: Sequence[float | None]) -> str:
    own, other = values
    return "" if own is None or other is None else f"{other - own:.1f}"
