"""`kleinod repeat`: paint a picture again from its receipt, and say whether it is the same."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kleinod.audit import audit_log
from kleinod.cli import output
from kleinod.cli.options import Quiet, dtype_option, known_models, taking
from kleinod.cli.progress_bars import Report, startup_status
from kleinod.display import printable
from kleinod.errors import InputError
from kleinod.paths import open_regular_file, shown
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.request import Components, ImageRequest

if TYPE_CHECKING:
    from PIL import Image

    from kleinod.diffusion.sampler import Sampler
    from kleinod.images import OpenedReference
    from kleinod.provenance.receipt import Receipt
    from kleinod.provenance.repetition import Outcome
    from kleinod.provenance.verification import Evidence
    from kleinod.session import CheckedRequest

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
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="The model, where it has no name.",
            autocompletion=known_models,
        ),
    ] = None
    text_encoder: Annotated[Path | None, _PART] = None
    autoencoder: Annotated[Path | None, _PART] = None
    tokenizer: Annotated[Path | None, _PART] = None
    device: Annotated[str | None, typer.Option(help="Another device than the receipt's.")] = None
    dtype: Annotated[str | None, dtype_option("Another format.")] = None
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
    evidence, old = _read(options)
    if evidence.image is None:
        raise InputError(
            f"picture: the pixels of {options.picture} cannot be read, so there is nothing to "
            "compare with; kleinod verify says what is wrong"
        )
    request = _request(options, old)
    with startup_status(quiet=options.quiet or options.json) as report:
        checked = _check(options, request, old)
        repeated, new = _reproduce(options, checked, old, report=report)
    from kleinod.provenance import container, repetition

    if place is not None:
        data = container.encoded(repeated, "PNG", new)
        audit_log.append(audit_log.generated(new, data))
        missing = place.missing_folder()
        place.write(data, seed=0, index=0, count=1)
        if not options.quiet:
            output.report_created([missing])
    as_saved = container.compressed(repeated, evidence.format_name, old["watermark"]["method"])
    _print(options, repetition.outcome(old, new, file_image=evidence.image, repeated=as_saved))


def _check(options: RepeatOptions, request: ImageRequest, old: "Receipt") -> "CheckedRequest":
    from kleinod import session

    files = old["model"]["files"]
    checked = session.check(
        request,
        session.Session.configured(
            safety=options.safety,
            tolerance=options.safety_tolerance,
            provenance=ProvenanceOptions(
                watermark=old["watermark"]["method"],
                c2pa=False,
                private="prompt" not in old["request"],
                full_hashes=any(isinstance(file, dict) and "sha256" in file for file in files),
            ),
        ),
    )
    _check_references(old, checked.references)
    return checked


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
            with open_regular_file(options.receipt) as file:
                text = file.read()
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"receipt: cannot read {shown(options.receipt)} ({reason}); give a file"
            ) from error
        return found, receipts.from_json(text, options.receipt)
    if found.receipt is None:
        raise InputError(f"receipt: {options.picture} holds none; give --receipt FILE.json")
    return found, found.receipt


def _request(options: RepeatOptions, old: "Receipt") -> ImageRequest:
    words = old["request"]
    prompt = words.get("prompt", options.prompt)
    if prompt is None:
        raise InputError("prompt: the receipt leaves it out; give --prompt")
    return ImageRequest(
        prompt,
        tuple(options.reference or ()),
        width=words["width"],
        height=words["height"],
        num_inference_steps=words["num_inference_steps"],
        guidance_scale=words["guidance_scale"],
        negative_prompt=words.get("negative_prompt", options.negative_prompt or ""),
        seed=words["seed"],
    )


def _check_references(old: "Receipt", references: "tuple[OpenedReference, ...]") -> None:
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
                f"reference: {reference.name} is not the one that the receipt names; its pixels "
                "have another hash"
            )


def _reproduce(
    options: RepeatOptions, checked: "CheckedRequest", old: "Receipt", *, report: Report
) -> "tuple[Image.Image, Receipt]":
    """The picture generated and watermarked again, and the receipt of that."""
    from kleinod import session
    from kleinod.provenance import facts

    model = _model(options, old)
    sampler = _load(options, model, old, report)
    full_hashes = checked.session.provenance.full_hashes
    files = facts.model_files(model, _components(options), full_hashes=full_hashes)
    prepared = session.prepare(checked, sampler, files)
    for step in sampler.steps(prepared.resolved):
        report("denoising", step.index / step.num_steps)
        latents = step.latents
    return session.reproduce(prepared, sampler.decode(latents)[0], old)


def _components(options: RepeatOptions) -> Components:
    return Components(options.text_encoder, options.autoencoder, options.tokenizer)


def _model(options: RepeatOptions, old: "Receipt") -> str:
    """The given model, or the receipt's if it is a known name: a receipt may come from anyone."""
    from kleinod import catalog

    name = str(old["model"]["name"])
    if options.model is None and name not in catalog.KNOWN:
        raise InputError(
            f"model: the receipt names {name}, which is not a known model; give --model PATH"
        )
    return options.model or name


def _load(options: RepeatOptions, model: str, old: "Receipt", report: Report) -> "Sampler":
    from kleinod.diffusion import loading

    return loading.load_sampler(
        model,
        device=options.device or _known_device(old["device"]["type"]),
        dtype=options.dtype or old["numbers"]["dtype"],
        components=_components(options),
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
        lines = (f"{outcome.verdict}{_told(decibels)}", *outcome.reasons)
        print("\n".join(map(printable, lines)))
    if outcome.verdict == repetition.DIFFERENT:
        raise typer.Exit(1)


def _told(decibels: float | None) -> str:
    if decibels is None:
        return ": the file has another size"
    if math.isinf(decibels):
        return ": every pixel of the file is the same"
    return f": PSNR {decibels:.1f} dB against the file"
