"""`kleinod generate`: parse, build a request, call the pipeline, write and report."""

import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kleinod import __version__
from kleinod.cli import output
from kleinod.cli.options import GenerateOptions, taking
from kleinod.cli.progress import Report, progress_bars
from kleinod.errors import InputError
from kleinod.request import Components, Request

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.pipeline import Pipeline


@dataclass(frozen=True)
class _Painting:
    """Finished pictures, the first one's seed (the others count up from it), and the seconds."""

    model: str
    pictures: "list[Image.Image]"
    first_seed: int
    num_steps: int
    timings: Mapping[str, float]


@taking(GenerateOptions)
def generate(options: GenerateOptions) -> None:
    """Paint PROMPT, or edit reference pictures with it."""
    start = time.perf_counter()
    request = _request(options)
    request.validate()
    destination = output.destination(options.output)
    with progress_bars(quiet=options.quiet or options.json) as report:
        painting = _painted(options, request, report)
    files = _written(painting, destination)
    timings = {**painting.timings, "total_seconds": time.perf_counter() - start}
    if options.json:
        print(json.dumps(_summary(painting.model, files, timings)))
    elif not options.quiet:
        _print_report(files, timings)


def _request(options: GenerateOptions) -> Request:
    """The request, its references read already: a bad one is refused before any model loads."""
    return Request(
        options.prompt,
        _references(options.reference or []),
        width=options.width,
        height=options.height,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance,
        negative_prompt=options.negative_prompt,
        seed=options.seed,
        num_images=options.num_images,
    )


def _references(paths: list[Path]) -> "tuple[Image.Image, ...]":
    return tuple(_reference(path) for path in paths)


def _reference(path: Path) -> "Image.Image":
    from kleinod import images  # late: numpy and Pillow's decoders, for editing only

    picture = images.load_image(path)
    try:
        images.prepare_reference(picture)
    except InputError as error:
        raise InputError(f"{error} ({path})") from error
    return picture


def _painted(options: GenerateOptions, request: Request, report: Report) -> _Painting:
    start = time.perf_counter()
    pipeline = _loaded(options, report)
    timings = {"load_seconds": time.perf_counter() - start}
    request = pipeline.settled(request)
    step = None
    for step in pipeline.steps(request, timings=timings):
        report("painting", step.index / step.num_steps)
    assert step is not None and request.seed is not None
    start = time.perf_counter()
    pictures = pipeline.decode(step.latents)
    timings["decode_seconds"] = time.perf_counter() - start
    return _Painting(pipeline.info.name, pictures, request.seed, step.num_steps, timings)


def _loaded(options: GenerateOptions, report: Report) -> "Pipeline":
    import kleinod  # late: torch takes a second, and a mistake above needs none

    parts = Components(options.text_encoder, options.autoencoder, options.tokenizer)
    return kleinod.load(
        options.model,
        device=options.device,
        dtype=options.dtype,
        components=parts,
        residency=options.residency,
        progress=lambda stage, fraction: report("loading", fraction),
    )


def _written(painting: _Painting, destination: output.Destination) -> list[dict[str, Any]]:
    files, count = [], len(painting.pictures)
    for index, picture in enumerate(painting.pictures):
        seed = painting.first_seed + index
        path = destination.path(seed, index=index, count=count)
        notes = {
            "Software": f"kleinod {__version__}",
            "model": painting.model,
            "seed": str(seed),
            "steps": str(painting.num_steps),
        }
        digest = output.write(path, output.encoded(picture, path.suffix, notes))
        size = {"width": picture.width, "height": picture.height}
        files.append({"path": str(path), "seed": seed, **size, "sha256": digest})
    return files


def _summary(
    model: str, files: list[dict[str, Any]], timings: Mapping[str, float]
) -> dict[str, Any]:
    """What --json prints."""
    return {
        "images": [file | {"path": str(Path(file["path"]).absolute())} for file in files],
        "model": model,
        "timings": timings,
        "peak_memory_bytes": _peak_memory_bytes(),
    }


def _peak_memory_bytes() -> int | None:
    """The most memory this process held; None on systems that do not tell (Windows)."""
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _print_report(files: list[dict[str, Any]], timings: Mapping[str, float]) -> None:
    for file in files:
        print(f"{file['path']}  seed {file['seed']}")
    stages = (f"{name.removesuffix('_seconds')} {value:.2f} s" for name, value in timings.items())
    print(", ".join(stages))
