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
    "prompts by people who want to get through; the corpus was written by the filters' authors."
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
    languages = sorted({one.example.language for one in others})
    return {
        "english": _part(english),
        "other_languages": _part(others),
        "stopped_by_language": {
            name: evaluation.stop_rate([one for one in others if one.example.language == name])
            for name in languages
        },
        "stopped_by_kind": {
            kind: evaluation.stop_rate([one for one in english if one.example.kind == kind])
            for kind in ("plain", "paraphrase", "misspelling")
        },
        "wrong": [
            {"text": one.example.text, "category": one.example.category, "named": one.stopped_by}
            for one in found
            if bool(one.stopped_by) != (one.example.category is not None)
        ],
        "not_measured": _UNMEASURED,
    }


def _part(found: "list[Outcome]") -> dict[str, Any]:
    from kleinod.safety import evaluation

    benign = sum(one.example.category is None for one in found)
    return {
        "num_benign": benign,
        "benign_passed": evaluation.pass_rate(found),
        "num_disallowed": len(found) - benign,
        "disallowed_stopped": evaluation.stop_rate(found),
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
    for part, words in ((english, "English"), (others, "other languages")):
        print(
            f"{words}: {_percent(part['benign_passed'])} of {part['num_benign']} benign prompts "
            f"pass, {_percent(part['disallowed_stopped'])} of {part['num_disallowed']} disallowed "
            "ones are stopped"
        )
    kinds = (f"{kind} {_percent(rate)}" for kind, rate in summary["stopped_by_kind"].items())
    print(f"stopped by kind: {', '.join(kinds)}")
    print(_UNMEASURED)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


evaluate.command(cls=Command)(pictures)
evaluate.command(cls=Command)(removal)
