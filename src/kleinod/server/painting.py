"""One served model: a job's words checked, prepared, painted by the engine, made signed files.

The same stations as on the command line (`generation.py`), the filters included; nothing here asks
the database.
Everything but `submit` and `close` takes long and blocks: call it in a thread.
"""

import io
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kleinod import assembly, generation, images
from kleinod.engine import Engine, EngineOptions, Event, Ticket
from kleinod.errors import InputError, ModeratedError
from kleinod.generation import FinishedImage, Signing
from kleinod.pipeline import GeneratedImage, Pipeline
from kleinod.provenance import container
from kleinod.provenance.facts import ModelFile
from kleinod.provenance.manifest import Reference
from kleinod.provenance.receipt import Choices, Receipt
from kleinod.request import Components, Request
from kleinod.safety import Guard, Policy, Screening
from kleinod.server.claims import Claim
from kleinod.server.settings import Settings

_log = logging.getLogger(__name__)

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
# fields of Request that a job keeps; the pictures lie in the storage
_FIELDS = (
    *("prompt", "negative_prompt", "width", "height"),
    *("num_inference_steps", "guidance_scale", "seed", "num_images"),
)


@dataclass(frozen=True)
class Prepared:
    """A job that the engine can take, and what its files will say."""

    request: Request
    drafts: list[Receipt]
    signing: Signing | None
    screening: Screening
    format: str
    quality: int | None


@dataclass(frozen=True)
class Made:
    """Finished files by their place among the pictures, and why others are not there."""

    files: dict[int, FinishedImage]
    stopped: list[ModeratedError]


@dataclass(frozen=True)
class Provenance:
    """What every picture of a server gets (mark, receipt, signature), and who judges it.

    `report_address` is where people report a picture or a mistake of the filters, if anywhere.
    """

    choices: Choices
    guard: Guard | None
    report_address: str | None

    @classmethod
    def load(cls, settings: Settings) -> "Provenance":
        """As configured; filters and certificates are read. Raises InputError, FilterError."""
        choices = Choices(
            watermark=settings.watermark,
            is_signed=settings.c2pa == "on",
            is_private=settings.private,
            has_full_hashes=settings.full_hashes,
        )
        generation.signing(choices)  # makes the certificates or says why it cannot
        policy = Policy.configured().switched(settings.safety)
        guard = Guard.where_on(policy)
        if guard is not None:
            _log.info("filters: %s", ", ".join(one.name for one in guard.filters))
        return cls(choices, guard, policy.report_address)


class JobPainter:
    """A model in memory and the engine that owns it."""

    def __init__(
        self,
        pipeline: Pipeline,
        engine: Engine,
        *,
        files: list[ModelFile],
        provenance: Provenance,
    ) -> None:
        self.pipeline, self.engine, self._files = pipeline, engine, files
        self._choices, self._guard = provenance.choices, provenance.guard

    @classmethod
    def load(cls, model: str, settings: Settings, provenance: Provenance) -> "JobPainter":
        """Load a model and start its engine. Raises InputError."""
        pipeline = assembly.load(
            model,
            device=settings.device,
            dtype=settings.dtype,
            residency=settings.residency,
            quantize=settings.quantize,
            compile=settings.compile,
        )
        files = generation.model_files(model, Components(), provenance.choices)
        options = EngineOptions(
            max_batch=settings.max_batch,
            max_queue=max(settings.max_queue, 4 * settings.max_batch),
            is_batching=settings.batching,
        )
        return cls(pipeline, Engine(pipeline, options), files=files, provenance=provenance)

    def settled(
        self, fields: dict[str, Any], references: Sequence[bytes], output_format: str
    ) -> dict[str, Any]:
        """A request's fields with every default filled in, the seed too. Raises InputError.

        So a job that is run again after a crash gives the same picture.
        """
        for name in fields.keys() - set(_FIELDS):
            raise InputError(f"{name}: no such field; known are {', '.join(_FIELDS)}")
        pictures = tuple(_opened(data, index)[0] for index, data in enumerate(references, start=1))
        settled = self.pipeline.settled(Request(**fields, reference_images=pictures))
        if output_format not in FORMATS:
            raise InputError(f"output_format: {output_format!r}; give {', '.join(FORMATS)}")
        container.check_mark(self._choices.watermark, f".{output_format}")
        if not self._choices.is_private:
            words = "".join(settled.prompt) + settled.negative_prompt
            container.check_words(words, f".{output_format}")
        filled = {name: getattr(settled, name) for name in _FIELDS}
        return filled | {"prompt": fields["prompt"]}

    def prepare(self, claim: Claim, references: Sequence[bytes]) -> Prepared:
        """A job judged, with its references read. Raises InputError, ModeratedError."""
        job = claim.job
        opened = [_opened(data, index) for index, data in enumerate(references, start=1)]
        pictures = tuple(image for image, _ in opened)
        request = self.pipeline.settled(Request(**job.request, reference_images=pictures))
        screening = Screening(self._guard, tolerance=claim.safety_tolerance)
        screening.check_request(request)
        drafts = generation.drafts(self.pipeline, request, self._files, self._choices)
        made = [
            _ingredient(f"reference {number}", data, *picture)
            for number, (data, picture) in enumerate(zip(references, opened, strict=True), start=1)
        ]
        signing = generation.signing(self._choices, made)
        return Prepared(
            request, drafts, signing, screening, job.output_format, claim.output_quality
        )

    def submit(
        self,
        prepared: Prepared,
        on_event: Callable[[Event], None],
        *,
        key: str,
        with_previews: bool,
    ) -> Ticket:
        """Hand a job to the engine."""
        return self.engine.submit(
            prepared.request, key=key, on_event=on_event, with_previews=with_previews
        )

    def finished(self, prepared: Prepared, painted: Sequence[GeneratedImage]) -> Made:
        """The painted pictures, judged, as files. Raises KleinodError."""
        made = Made({}, [])
        for index, (one, draft) in enumerate(zip(painted, prepared.drafts, strict=True)):
            try:
                made.files[index] = generation.finished(
                    one.image,
                    draft,
                    format_name=FORMATS[prepared.format],
                    signing=prepared.signing,
                    screening=prepared.screening,
                    quality=prepared.quality,
                )
            except ModeratedError as error:
                made.stopped.append(error)
        return made

    def close(self) -> None:
        """Stop the engine at the next step."""
        self.engine.close(finish=False)


def _opened(data: bytes, number: int) -> tuple[Image.Image, str]:
    """8-bit RGB and the format of the file. Raises InputError."""
    try:
        with Image.open(io.BytesIO(data), formats=images.READABLE_FORMATS) as opened:
            return images.load_image(opened), str(opened.format)
    except (OSError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"reference_images: picture {number} cannot be read ({error}); give a whole picture"
        ) from error


def _ingredient(name: str, data: bytes, image: Image.Image, format_name: str) -> Reference:
    """For the manifest: the file as it is, so that its own manifest is kept."""
    if format_name in container.MIME:
        return Reference(name, data, format_name)
    return Reference.of_pixels(name, image)
