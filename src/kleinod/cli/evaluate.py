"""`kleinod evaluate`: how good the parts are, measured on what ships with the package."""

import json as jsonlib
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from kleinod.cli.commands import Command, Group
from kleinod.cli.evaluate_pictures import pictures, removal

if TYPE_CHECKING:
    from kleinod.safety.evaluation import Outcome

evaluate = typer.Typer(cls=Group, help="Measure how good the parts are.", no_args_is_help=True)

_UNMEASURED = (
    "Not measured: the picture filters on unsafe pictures (none are part of this project), and "
    "prompts by people who want to get through: the corpus was written in this project."
)


@evaluate.command(cls=Command)
def safety(
    *,
    tolerance: Annotated[int, typer.Option(help="As --safety-tolerance, 0 to 5.")] = 2,
    all_prompts: Annotated[
        bool, typer.Option("--all", help="Also the half that the rules were tuned on.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False,
) -> None:
    """Judge the corpus of prompts: precision and recall of each category."""
    from kleinod.safety import Guard, Policy, evaluation

    guard = Guard.load(Policy(has_own_filters=False))
    examples = [
        one for one in evaluation.corpus() if all_prompts or one.half == evaluation.HELD_OUT
    ]
    found = evaluation.outcomes(guard, examples, tolerance=tolerance)
    if json:
        print(jsonlib.dumps(_summary(found)))
    else:
        _print(found)


def _summary(found: "list[Outcome]") -> dict[str, Any]:
    from kleinod.safety import evaluation

    english = [one for one in found if one.example.language == "en"]
    others = [one for one in found if one.example.language != "en"]
    return {
        "english": _part(english),
        "other_languages": _part(others),
        "languages": evaluation.counts_by("language", found),
        "kinds": evaluation.counts_by("kind", english),
        "wrong": [
            {"text": one.example.text, "category": one.example.category, "named": one.stopped_by}
            for one in found
            if bool(one.stopped_by) != (one.example.category is not None)
        ],
        "not_measured": _UNMEASURED,
    }


def _part(found: "list[Outcome]") -> dict[str, Any]:
    from kleinod.safety import evaluation

    return {
        **evaluation.counts(found),
        "categories": {
            score.category: {
                "num_examples": score.num_examples,
                "recall": score.recall,
                "precision": score.precision,
            }
            for score in evaluation.scores(found)
        },
    }


def _print(found: "list[Outcome]") -> None:
    summary = _summary(found)
    table = Table("category", "prompts", "recall", "precision", "other languages", "recall ")
    english, others = summary["english"], summary["other_languages"]
    for name, row in english["categories"].items():
        other = others["categories"][name]
        table.add_row(
            *(name, str(row["num_examples"]), _percent(row["recall"]), _percent(row["precision"])),
            *(str(other["num_examples"]), _percent(other["recall"])),
        )
    Console(width=100).print(table)
    _print_groups("language", summary["languages"])
    _print_groups("kind, English", summary["kinds"])
    for part, words in ((english, "English"), (others, "other languages")):
        print(
            f"{words}: {_percent(part['benign_passed'])} of {part['num_benign']} benign prompts "
            f"pass, {_percent(part['disallowed_stopped'])} of {part['num_disallowed']} disallowed "
            "ones are stopped"
        )
    print(_UNMEASURED)


def _print_groups(title: str, groups: dict[str, Any]) -> None:
    table = Table(title, "benign", "pass", "disallowed", "stopped")
    for name, row in groups.items():
        passed = _percent(row["benign_passed"] if row["num_benign"] else None)
        stopped = _percent(row["disallowed_stopped"] if row["num_disallowed"] else None)
        table.add_row(name, str(row["num_benign"]), passed, str(row["num_disallowed"]), stopped)
    Console(width=100).print(table)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


evaluate.command(cls=Command)(pictures)
evaluate.command(cls=Command)(removal)
