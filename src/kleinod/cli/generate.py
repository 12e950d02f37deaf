"""`kleinod generate`: parse, run the session, write and report."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleinod.cli import output
from kleinod.cli.background import load_in_background
from kleinod.cli.options import GenerateOptions, taking
from kleinod.cli.progress_bars import Report, startup_status
from kleinod.cli.prompts import read_prompt
from kleinod.cli.stopwatch import Stopwatch
from kleinod.display import printable
from kleinod.errors import ModeratedError
from kleinod.provenance.container import FORMATS
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.request import Components, ImageRequest

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.diffusion.sampler import Sampler
    from kleinod.provenance.facts import ModelFile
    from kleinod.session import BlockedImage, CheckedRequest, GeneratedImage


@dataclass(frozen=True)
class _Destinations:
    """Where pictures go, and receipts if they are wanted."""

    pictures: output.Destination
    receipts: output.Destination | None

    def missing_folders(self) -> list[Path | None]:
        """What writing will create."""
        several = (self.pictures, self.receipts)
        return [one.missing_folder() for one in several if one is not None]


@dataclass(frozen=True)
class _Written:
    """What --json says of each file, and why other pictures were not written."""

    files: list[dict[str, Any]] = field(default_factory=list)
    pictures: "list[Image.Image]" = field(default_factory=list)
    blocked: "list[BlockedImage]" = field(default_factory=list)
    warnings: list[dict[str, Any]] = field(default_factory=list)


@taking(GenerateOptions)
def generate(options: GenerateOptions) -> None:
    """Paint PROMPT, or edit reference pictures with it."""
    watch = Stopwatch.since_process_start()
    request = _request(options)
    request.validate()
    destinations = _destinations(options)
    missing = destinations.missing_folders()
    with startup_status(quiet=options.quiet or options.json) as report:
        report("checking", 0)
        checked = _check(options, request, destinations, watch)
        watch.lap("check")
        sampler, files = _load(options, report, watch)
        written = _generate(checked, sampler, files, destinations, report=report, watch=watch)
    timings = watch.report()
    if not options.quiet:
        output.report_created(missing)
    if options.json:
        _print_json(options, _summary(sampler, written, timings))
    elif not options.quiet:
        _print_report(options, written.files, timings)
    if options.show and not options.json:
        _show(written.pictures)
    if written.blocked:
        raise _located(written.blocked)


def _located(blocked: "list[BlockedImage]") -> ModeratedError:
    """The error of the first blocked image, which names every one of them."""
    error = blocked[0].located_error()
    if len(blocked) > 1:
        error.where = ", ".join(one.where for one in blocked)
    return error


def _request(options: GenerateOptions) -> ImageRequest:
    return ImageRequest(
        read_prompt(options.prompt),
        tuple(options.reference or ()),
        width=options.width,
        height=options.height,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        negative_prompt=options.negative_prompt,
        seed=options.seed,
        num_images=options.num_images,
    )


def _destinations(options: GenerateOptions) -> _Destinations:
    """Checked: they can be written. Raises InputError."""
    pictures = output.destination(options.output, count=options.num_images)
    receipt = options.receipt
    return _Destinations(pictures, None if receipt is None else output.receipt_destination(receipt))


def _check(
    options: GenerateOptions,
    request: ImageRequest,
    destinations: _Destinations,
    watch: Stopwatch,
) -> "CheckedRequest":
    """The request checked; filters load while torch is imported, which takes as long."""
    from kleinod import session  # late: the other commands need none of it

    own = session.Session.configured(
        safety=options.safety,
        tolerance=options.safety_tolerance,
        provenance=ProvenanceOptions(
            watermark=options.watermark,
            c2pa=options.c2pa == "on",
            private=options.private,
            full_hashes=options.full_hashes,
        ),
    )
    kind = session.OutputOptions(FORMATS[destinations.pictures.suffix])
    session.check_output(request, own.provenance, kind)
    request = replace(request, reference_images=session.open_references(request.references))
    watch.lap("check")
    guard = own.guard
    if guard is not None:
        load_in_background(lambda: guard.filters)
    from kleinod.diffusion import loading  # noqa: F401 - torch

    watch.lap("import")
    return session.check(request, own, kind)


def _load(
    options: GenerateOptions, report: Report, watch: Stopwatch
) -> "tuple[Sampler, list[ModelFile]]":
    """The model, and its files with their hashes."""
    report("loading", 0)
    from kleinod.diffusion import loading
    from kleinod.provenance import facts

    components = Components(options.text_encoder, options.autoencoder, options.tokenizer)
    sampler = loading.load_sampler(
        options.model,
        device=options.device,
        dtype=options.dtype,
        components=components,
        offload=options.residency or options.offload,
        quantize=options.quantize,
        compile=options.compile,
        progress=lambda stage, fraction: report("loading", fraction),
    )
    files = facts.model_files(options.model, components, full_hashes=options.full_hashes)
    watch.lap("load")
    return sampler, files


def _generate(
    checked: "CheckedRequest",
    sampler: "Sampler",
    files: "list[ModelFile]",
    destinations: _Destinations,
    *,
    report: Report,
    watch: Stopwatch,
) -> _Written:
    """Denoise, finish and write each picture; one that is blocked leaves the others be."""
    from kleinod import session

    prepared, written = session.prepare(checked, sampler, files), _Written()
    for warning in prepared.warnings:
        print("warning:", warning, file=sys.stderr)
        written.warnings.append(warning.as_json())
    timings: dict[str, float] = {}
    count = len(prepared.receipts)
    for step in sampler.steps(prepared.resolved, timings=timings):
        report("denoising", step.index / step.num_steps)
        latents = step.latents
    watch.lap("other", timings)
    report("decoding", 0)
    pictures = sampler.decode(latents)
    watch.lap("decode")
    report("finishing", 0)
    for one in session.finish(prepared, pictures):
        if isinstance(one, session.BlockedImage):
            written.blocked.append(one)
            continue
        path = destinations.pictures.write(one.data, seed=one.seed, index=one.index, count=count)
        if destinations.receipts is not None:
            receipt = (json.dumps(one.receipt, indent=2) + "\n").encode()
            destinations.receipts.write(receipt, seed=one.seed, index=one.index, count=count)
        written.files.append({"path": str(path), **_facts(one)})
        written.pictures.append(one.image)
    watch.lap("finish")
    return written


def _facts(image: "GeneratedImage") -> dict[str, Any]:
    """What --json says of a picture."""
    return {
        "seed": image.seed,
        "width": image.image.width,
        "height": image.image.height,
        "watermark": image.receipt["watermark"].get("payload"),
        "c2pa": image.receipt["c2pa"],
        "sha256": image.sha256,
    }


def _summary(sampler: "Sampler", written: _Written, timings: Mapping[str, float]) -> dict[str, Any]:
    """What --json prints."""
    from kleinod.memory import peak_bytes  # late: torch

    return {
        "images": [file | {"path": _whole_path(file["path"])} for file in written.files],
        "num_moderated": len(written.blocked),
        "moderated": [{"index": one.index, "seed": one.seed} for one in written.blocked],
        "warnings": written.warnings,
        "model": sampler.info.name,
        "timings": timings,
        "peak_memory_bytes": peak_bytes(),
    }


def _whole_path(path: str) -> str:
    """For scripts that change folders."""
    return path if path == str(output.STANDARD_OUTPUT) else str(Path(path).absolute())


def _show(pictures: "list[Image.Image]") -> None:
    from kleinod.cli import terminal_image  # late: numpy

    for picture in pictures:
        terminal_image.show(picture)


def _print_json(options: GenerateOptions, summary: dict[str, Any]) -> None:
    # standard output holds the picture where `-o -` was given
    stream = sys.stderr if options.output == output.STANDARD_OUTPUT else sys.stdout
    print(json.dumps(summary), file=stream)


def _print_report(
    options: GenerateOptions, files: list[dict[str, Any]], timings: Mapping[str, float]
) -> None:
    stream = sys.stderr if options.output == output.STANDARD_OUTPUT else sys.stdout
    for file in files:
        print(f"{printable(file['path'])}  seed {file['seed']}", file=stream)
    # a stage under 5 ms is in the sum, and no news
    told = {name: value for name, value in timings.items() if value >= 0.005}
    stages = (f"{name.removesuffix('_seconds')} {value:.2f} s" for name, value in told.items())
    print(", ".join(stages), file=stream)
