"""`kleinod repeat`: paint a picture again from its receipt, and say whether it is the same."""

import json
import math
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from kleinod.cli import output
from kleinod.cli.generate import check_log, screening_of
from kleinod.cli.options import Quiet, taking
from kleinod.cli.progress import Report, progress_bars
from kleinod.cli.references import Reference, load_references
from kleinod.errors import InputError
from kleinod.provenance import audit
from kleinod.provenance.receipt import Choices
from kleinod.request import Components, Request

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.pipeline import Pipeline
    from kleinod.provenance.receipt import Receipt
    from kleinod.provenance.repetition import Outcome
    from kleinod.provenance.verification import Evidence
    from kleinod.safety import Screening

_PART = typer.Option(metavar="PATH", help="Its file or folder, where the model brings none.")


@dataclass(frozen=True, kw_only=True)
class RepeatOptions:
    """What the user typed; None means what the receipt says."""

    picture: Annotated[Path, typer.Argument(metavar="PICTURE", help="A picture with a receipt.")]
    receipt: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="The receipt, where the picture has lost it."),
    ] = None
    prompt: Annotated[
        str | None, typer.Option(help="The prompt, where the receipt leaves it out.")
    ] = None
    negative_prompt: Annotated[str | None, typer.Option(help="Likewise.")] = None
    reference: Annotated[
        list[Path] | None,
        typer.Option("-r", "--reference", metavar="PICTURE", help="The references, in order."),
    ] = None
    model: Annotated[
        str | None, typer.Option(metavar="NAME_OR_PATH", help="The model, where it has no name.")
    ] = None
    text_encoder: Annotated[Path | None, _PART] = None
    autoencoder: Annotated[Path | None, _PART] = None
    tokenizer: Annotated[Path | None, _PART] = None
    device: Annotated[str | None, typer.Option(help="Another device than the receipt's.")] = None
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"] | None, typer.Option(help="Another format.")
    ] = None
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the repeated picture there (.png).")
    ] = None
    safety: Annotated[
        Literal["on", "off"] | None, typer.Option(help="As in `kleinod generate`.")
    ] = None
    safety_tolerance: Annotated[int, typer.Option(help="As in `kleinod generate`.")] = 2
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False
    quiet: Quiet = False


@taking(RepeatOptions)
def repeat(options: RepeatOptions) -> None:
    """Paint PICTURE again from its receipt: bit-equal, close or different (status 1), and why."""
    place = _destination(options)
    found, old = _read(options)
    if found.image is None:
        raise InputError(
            f"picture: the pixels of {options.picture} cannot be read, so there is nothing to "
            "compare with; kleinod verify says what is wrong"
        )
    request = _request(options, old, load_references(options.reference or []))
    request.validate()
    check_log()
    screening = screening_of(options.safety, options.safety_tolerance)
    with (
        audit.telling_stops(old["request"].get("prompt")),
        progress_bars(quiet=options.quiet or options.json) as report,
    ):
        screening.check_request(request)
        repeated, new = _repeated(options, request, old, report=report, screening=screening)
    from kleinod.provenance import container, repetition

    if place is not None:
        data = container.encoded(repeated, "PNG", new)
        audit.append(audit.generated(new, data))
        output.write(place.path(0, index=0, count=1), data)
    as_saved = container.compressed(repeated, found.format_name, old["watermark"]["method"])
    _print(options, repetition.outcome(old, new, file_image=found.image, repeated=as_saved))


def _destination(options: RepeatOptions) -> output.Destination | None:
    if options.output is None:
        return None
    if options.output.suffix.lower() != ".png":
        raise InputError(f"output: {options.output} is no .png; bits are kept in one only")
    return output.destination(options.output)


def _read(options: RepeatOptions) -> "tuple[Evidence, Receipt]":
    """The picture and its receipt: the given one, the signed one, the one in the metadata."""
    from kleinod.provenance import receipt as receipts
    from kleinod.provenance import verification

    found = verification.evidence(options.picture)
    if options.receipt is not None:
        try:
            text = options.receipt.read_bytes()
        except OSError as error:
            raise InputError(
                f"receipt: cannot read {options.receipt} ({error.strerror}); give a file"
            ) from error
        return found, receipts.from_json(text, options.receipt)
    if found.receipt is None:
        raise InputError(f"receipt: {options.picture} holds none; give --receipt FILE.json")
    return found, found.receipt


def _request(options: RepeatOptions, old: "Receipt", references: list[Reference]) -> Request:
    words = old["request"]
    prompt = words.get("prompt", options.prompt)
    if prompt is None:
        raise InputError("prompt: the receipt leaves it out; give --prompt")
    _check_references(old, references)
    return Request(
        prompt,
        tuple(reference.image for reference in references),
        width=words["width"],
        height=words["height"],
        num_inference_steps=words["num_inference_steps"],
        guidance_scale=words["guidance_scale"],
        negative_prompt=words.get("negative_prompt", options.negative_prompt or ""),
        seed=words["seed"],
    )


def _check_references(old: "Receipt", references: list[Reference]) -> None:
    from kleinod.provenance.receipt import pixels_sha256

    wanted = old["request"]["reference_images"]
    if len(wanted) != len(references):
        raise InputError(
            f"reference: {len(references)} given, the picture was painted from {len(wanted)}; "
            "give each with -r, in order"
        )
    for facts, reference in zip(wanted, references, strict=True):
        if not isinstance(facts, dict) or facts.get("pixels_sha256") != pixels_sha256(
            reference.image
        ):
            raise InputError(
                f"reference: {reference.path} is not the one that the receipt names; its pixels "
                "have another hash"
            )


def _repeated(
    options: RepeatOptions,
    request: Request,
    old: "Receipt",
    *,
    report: Report,
    screening: "Screening",
) -> "tuple[Image.Image, Receipt]":
    """The picture painted and marked again, and the receipt of that."""
    from kleinod import generation

    model = options.model or old["model"]["name"]
    pipeline = _loaded(options, model, old, report)
    components = Components(options.text_encoder, options.autoencoder, options.tokenizer)
    has_full = any("sha256" in file for file in old["model"]["files"])
    choices = Choices(
        watermark=old["watermark"]["method"],
        is_signed=False,
        is_private="prompt" not in old["request"],
        has_full_hashes=has_full,
    )
    request = pipeline.settled(request)
    files = generation.model_files(model, components, choices)
    draft = generation.drafts(pipeline, request, files, choices)[0]
    steps = deque(_reported(pipeline, request, report), maxlen=1)
    painted = pipeline.decode(steps.pop().latents)[0]
    return generation.repeated(painted, draft, old, screening=screening)


def _reported(pipeline: "Pipeline", request: Request, report: Report) -> Any:  # noqa: ANN401
    for step in pipeline.steps(request):
        report("painting", step.index / step.num_steps)
        yield step


def _loaded(options: RepeatOptions, model: str, old: "Receipt", report: Report) -> "Pipeline":
    import kleinod
    from kleinod import catalog

    try:
        catalog.find(model)
    except InputError as error:
        if options.model:
            raise
        raise InputError(
            f"model: the receipt names {model}, which is not known here; give --model PATH"
        ) from error
    return kleinod.load(
        model,
        device=options.device or _known_device(old["device"]["type"]),
        dtype=options.dtype or old["numbers"]["dtype"],
        components=Components(options.text_encoder, options.autoencoder, options.tokenizer),
        quantize=old["numbers"].get("quantize"),
        compile=old["numbers"].get("compile") == "on",
        progress=lambda stage, fraction: report("loading", fraction),
    )


def _known_device(name: str) -> str | None:
    """The receipt's kind of device if it is here, else the best that is."""
    import torch

    present = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return name if present.get(name, False) else None


def _print(options: RepeatOptions, outcome: "Outcome") -> None:
    from kleinod.provenance import repetition

    decibels = outcome.psnr_db
    if options.json:
        finite = None if decibels is None or math.isinf(decibels) else round(decibels, 2)
        told = {"verdict": outcome.verdict, "psnr_db": finite, "reasons": list(outcome.reasons)}
        print(json.dumps(told))
    else:
        print("\n".join((f"{outcome.verdict}{_told(decibels)}", *outcome.reasons)))
    if outcome.verdict == repetition.DIFFERENT:
        raise typer.Exit(1)


def _told(decibels: float | None) -> str:
    if decibels is None:
        return ": the file has another size"
    if math.isinf(decibels):
        return ": every pixel of the file is the same"
    return f": PSNR {decibels:.1f} dB against the file"
