"""`kleinod models`: the models with a name, what they need, and what one of them knows."""

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer

from kleinod import catalog
from kleinod.cli.model_report import print_model, print_models
from kleinod.errors import InputError, WeightsError
from kleinod.paths import shown
from kleinod.runtime.hardware import Memory, device_memory


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME_OR_PATH", help="Only this model, with all that it knows."),
    ] = None,
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead.")] = False,
) -> None:
    """List the models that have a name: what they need, whether they fit, where they lie."""
    device = device_memory()
    if name is not None:
        report = _report(name, device)
        print(jsonlib.dumps(report)) if json else print_model(report)
        return
    rows = [_row(known, device) for known in catalog.KNOWN.values()]
    print(jsonlib.dumps(rows)) if json else print_models(rows, device)


def _row(known: catalog.KnownModel, device: Memory) -> dict[str, Any]:
    """What the list says of a model."""
    from kleinod.weights import requirements  # late: `--help` needs none of it

    path, others = catalog.present(known), _others(known)
    memory = requirements.published_memory(known) or _memory(path)
    return {
        "name": known.name,
        "variant": known.variant,
        "format": known.format,
        "license": known.license,
        "repository": known.repository,
        "file": known.file,
        "components": others[0].name if others else None,
        "path": None if path is None else str(path),
        "bytes": requirements.published_bytes(known) if path is None else _stored_bytes(path),
        "memory_bytes": memory,
        "device": device.device,
        "device_bytes": device.num_bytes,
        "fits": device.policy(memory),
    }


def _others(known: catalog.KnownModel) -> list[catalog.KnownModel]:
    """The models that a transformer alone takes its text encoder and autoencoder from."""
    return catalog.whole_models(known.size) if known.is_transformer_only else []


def _report(name: str, device: Memory) -> dict[str, Any]:
    """Everything of one model: the row, how to get it, how it is run, what it knows."""
    known = catalog.known_model(name)
    row = _row(known, device) if known else _row_of_path(name, device)
    missing = known is not None and row["path"] is None
    row["get"] = f"kleinod pull {row['name']}" if missing else None
    if row["path"] is None:
        return row
    path = Path(row["path"])
    info = catalog.describe(name, path)
    return row | {
        "default_size": info.default_size,
        "num_inference_steps": info.num_inference_steps,
        "guidance_scale": info.guidance_scale,
        "max_text_tokens": info.max_text_tokens,
        "vocabulary": info.vocabulary and info.vocabulary.as_json(),
    }


def _row_of_path(name: str, device: Memory) -> dict[str, Any]:
    """The row of a folder or a file. Raises InputError for what holds no model."""
    from kleinod.weights import requirements
    from kleinod.weights.folders import not_a_model
    from kleinod.weights.inspect_model import inspected

    path = catalog.find(name)
    if path.is_dir() and not (path / "model_index.json").is_file():
        raise not_a_model(path)
    inspection = inspected(path)
    memory = requirements.memory(inspection)
    if memory is None:
        raise InputError(
            f"model: {shown(path)} is no klein model but {inspection.title}; "
            "`kleinod inspect` describes what it holds"
        )
    info = catalog.describe(name, path)
    return {
        "name": info.name,
        "variant": inspection.variant and inspection.variant.name,
        "format": None,
        "license": info.license,
        "repository": None,
        "file": None,
        "components": None,
        "path": str(path),
        "bytes": _stored_bytes(path),
        "memory_bytes": memory,
        "device": device.device,
        "device_bytes": device.num_bytes,
        "fits": device.policy(memory),
    }


def _memory(path: Path | None) -> dict[str, int] | None:
    """By offload policy, from the headers; None where they cannot be read."""
    from kleinod.weights import requirements
    from kleinod.weights.inspect_model import inspected

    try:
        return None if path is None else requirements.memory(inspected(path))
    except (InputError, WeightsError):
        return None  # a broken model is still listed; `inspect` says what is wrong


def _stored_bytes(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
