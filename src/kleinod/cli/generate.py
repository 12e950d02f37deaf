"""`kleinod generate`: parse, build a request, call the pipeline, write and report."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleinod.cli import output
from kleinod.cli.options import GenerateOptions, taking
from kleinod.cli.progress import Report, progress_bars
from kleinod.cli.references import Reference, load_references
from kleinod.errors import ModeratedError
from kleinod.provenance import audit, container
from kleinod.provenance.receipt import Choices
from kleinod.request import Components, Request

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.generation import FinishedImage, Signing
    from kleinod.pipeline import Pipeline
    from kleinod.provenance.receipt import Receipt
    from kleinod.safety import Screening


@dataclass(frozen=True)
class _Painting:
    """Painted pictures, their receipts so far, and the seconds."""

    model: str
    pictures: "list[Image.Image]"
    drafts: "list[Receipt]"
    timings: dict[str, float]


@dataclass(frozen=True)
class _Places:
    """Where pictures go, and receipts if they are wanted."""

    pictures: output.Destination
    receipts: output.Destination | None


@dataclass(frozen=True)
class _Written:
    """What --json says of each file, and why other pictures were not written."""

    files: list[dict[str, Any]]
    stopped: list[ModeratedError]


@taking(GenerateOptions)
def generate(options: GenerateOptions) -> None:
    """Paint PROMPT, or edit reference pictures with it."""
    start = time.perf_counter()
    references = load_references(options.reference or [])
    request = _request(options, references)
    request.validate()
    places = _places(options)
    check_log()
    screening = screening_of(options.safety, options.safety_tolerance)
    with audit.telling_stops(None if options.private else options.prompt):
        screening.check_request(request)
    signing = _signing(options, references)
    with progress_bars(quiet=options.quiet or options.json) as report:
        painting = _painted(options, request, report)
    finishing = time.perf_counter()
    written = _written(painting, places, signing=signing, screening=screening)
    end = time.perf_counter()
    timings = {**painting.timings, "finish_seconds": end - finishing, "total_seconds": end - start}
    if options.json:
        print(json.dumps(_summary(painting.model, written, timings)))
    elif not options.quiet:
        _print_report(written.files, timings)
    if written.stopped:
        raise written.stopped[0]


def screening_of(state: str | None, tolerance: int) -> "Screening":
    """The filters as configured and as the flags say. Raises InputError."""
    from kleinod.safety import Policy, Screening  # late: the other commands need none of it

    return Screening.of(Policy.configured().switched(state), tolerance=tolerance)


def _request(options: GenerateOptions, references: list[Reference]) -> Request:
    """The request, its references read already: a bad one is refused before any model loads."""
    return Request(
        options.prompt,
        tuple(reference.image for reference in references),
        width=options.width,
        height=options.height,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        negative_prompt=options.negative_prompt,
        seed=options.seed,
        num_images=options.num_images,
    )


def _places(options: GenerateOptions) -> _Places:
    """Checked: they can be written, and hold the words. Raises InputError."""
    pictures = output.destination(options.output)
    suffix = Path(pictures.file_name or "x.png").suffix
    container.check_mark(options.watermark, suffix)
    if not options.private:
        container.check_words(options.prompt + options.negative_prompt, suffix)
    receipt = options.receipt
    return _Places(pictures, None if receipt is None else output.receipt_destination(receipt))


def check_log() -> None:
    """Raise InputError where an audit log is wanted and cannot be written."""
    log = audit.configured()
    if log is not None:
        log.check()


def _choices(options: GenerateOptions) -> Choices:
    return Choices(
        watermark=options.watermark,
        is_signed=options.c2pa == "on",
        is_private=options.private,
        has_full_hashes=options.full_hashes,
    )


def _signing(options: GenerateOptions, references: list[Reference]) -> "Signing | None":
    from kleinod import generation  # late: torch takes a second, and a mistake above needs none

    choices = _choices(options)
    if not choices.is_signed:
        return None
    made = [reference.as_ingredient(is_private=options.private) for reference in references]
    return generation.signing(choices, made)


def _painted(options: GenerateOptions, request: Request, report: Report) -> _Painting:
    from kleinod import generation

    start = time.perf_counter()
    pipeline = _loaded(options, report)
    timings = {"load_seconds": time.perf_counter() - start}
    request = pipeline.settled(request)
    choices = _choices(options)
    files = generation.model_files(options.model, _components(options), choices)
    drafts = generation.drafts(pipeline, request, files, choices)
    step = None
    for step in pipeline.steps(request, timings=timings):
        report("painting", step.index / step.num_steps)
    assert step is not None
    start = time.perf_counter()
    pictures = pipeline.decode(step.latents)
    timings["decode_seconds"] = time.perf_counter() - start
    return _Painting(pipeline.info.name, pictures, drafts, timings)


def _components(options: GenerateOptions) -> Components:
    return Components(options.text_encoder, options.autoencoder, options.tokenizer)


def _loaded(options: GenerateOptions, report: Report) -> "Pipeline":
    import kleinod

    return kleinod.load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        components=_components(options),
        residency=options.residency,
        quantize=options.quantize,
        compile=options.compile,
        progress=lambda stage, fraction: report("loading", fraction),
    )


def _written(
    painting: _Painting, places: _Places, *, signing: "Signing | None", screening: "Screening"
) -> _Written:
    """Judge, finish and write each picture; one that is stopped leaves the others be."""
    from kleinod import generation

    written, count = _Written([], []), len(painting.pictures)
    for index, (picture, draft) in enumerate(zip(painting.pictures, painting.drafts, strict=True)):
        path = places.pictures.path(draft["request"]["seed"], index=index, count=count)
        format_name = container.FORMATS[path.suffix.lower()]
        try:
            made = generation.finished(
                picture, draft, format_name=format_name, signing=signing, screening=screening
            )
        except ModeratedError as error:
            audit.append(audit.moderated(error, prompt=draft["request"].get("prompt")))
            written.stopped.append(error)
            continue
        # the log first: no picture may lie somewhere that is not in it
        audit.append(audit.generated(made.receipt, made.data))
        digest = output.write(path, made.data)
        if places.receipts is not None:
            beside = places.receipts.path(made.receipt["request"]["seed"], index=index, count=count)
            output.write(beside, (json.dumps(made.receipt, indent=2) + "\n").encode())
        written.files.append({"path": str(path), **_told(made), "sha256": digest})
    return written


def _told(made: "FinishedImage") -> dict[str, Any]:
    return {
        "seed": made.receipt["request"]["seed"],
        "width": made.image.width,
        "height": made.image.height,
        "watermark": made.receipt["watermark"].get("payload"),
        "c2pa": made.receipt["c2pa"],
    }


def _summary(model: str, written: _Written, timings: Mapping[str, float]) -> dict[str, Any]:
    """What --json prints."""
    from kleinod.memory import peak_bytes  # late: torch

    return {
        "images": [file | {"path": str(Path(file["path"]).absolute())} for file in written.files],
        "num_moderated": len(written.stopped),
        "model": model,
        "timings": timings,
        "peak_memory_bytes": peak_bytes(),
    }


def _print_report(files: list[dict[str, Any]], timings: Mapping[str, float]) -> None:
    for file in files:
        print(f"{file['path']}  seed {file['seed']}")
    stages = (f"{name.removesuffix('_seconds')} {value:.2f} s" for name, value in timings.items())
    print(", ".join(stages))
