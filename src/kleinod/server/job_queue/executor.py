"""One served model: a job checked, prepared, denoised by the engine, made signed files.

The way of a request is the session's, as on the command line; nothing here asks the database.
Everything but `submit` and `close` takes long and blocks: call it in a thread.
"""

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from kleinod import session
from kleinod.audit.audit_log import AuditLog
from kleinod.diffusion import loading
from kleinod.diffusion.sampler import SampledImage, Sampler
from kleinod.engine import Engine, EngineOptions, Event, Ticket
from kleinod.errors import InputError
from kleinod.provenance import facts
from kleinod.provenance.facts import ModelFile
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.request import Components, ImageRequest
from kleinod.request_warnings import RequestWarning
from kleinod.safety.policy import BLOCK
from kleinod.server.api import request_warnings
from kleinod.server.auditing import JobAudit
from kleinod.server.job_queue.claims import Claim
from kleinod.server.job_queue.job import Job
from kleinod.server.settings import Settings
from kleinod.session import (
    BlockedImage,
    GeneratedImage,
    OutputOptions,
    PreparedRequest,
    Session,
)

_log = logging.getLogger(__name__)

FORMATS = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
# fields of ImageRequest that a job keeps; the reference pictures lie in the storage
_FIELDS = (
    "prompt",
    "negative_prompt",
    "width",
    "height",
    "num_inference_steps",
    "guidance_scale",
    "seed",
    "num_images",
)


@dataclass(frozen=True)
class FinishedJob:
    """A job's images in order, and those that a filter blocked."""

    images: list[GeneratedImage]
    blocked: list[BlockedImage]


def configured_session(settings: Settings) -> Session:
    """Filters, provenance and signer of a server, loaded now. Raises InputError, FilterError."""
    options = ProvenanceOptions(
        watermark=settings.watermark,
        c2pa=settings.c2pa == "on",
        private=settings.private,
        full_hashes=settings.full_hashes,
    )
    configured = Session.configured(safety=settings.safety, provenance=options, brands=BLOCK)
    session.prepare_signing(options)  # makes the certificates or says why it cannot
    if configured.guard is not None:
        _log.info("filters: %s", ", ".join(one.name for one in configured.guard.filters))
    return configured


class JobExecutor:
    """A model in memory and the engine that owns it."""

    def __init__(
        self, sampler: Sampler, engine: Engine, *, files: list[ModelFile], session: Session
    ) -> None:
        self.sampler, self.engine = sampler, engine
        self._files, self._session = files, session
        # each look at a job asks for them
        self._warnings = lru_cache(maxsize=256)(self._new_warnings)

    @classmethod
    def load(cls, model: str, settings: Settings, session: Session) -> "JobExecutor":
        """Load a model and start its engine. Raises InputError."""
        sampler = loading.load_sampler(
            model,
            device=settings.device,
            dtype=settings.dtype,
            offload=settings.residency or settings.offload,
            quantize=settings.quantize,
            compile=settings.compile,
        )
        full_hashes = session.provenance.full_hashes
        files = facts.model_files(model, Components(), full_hashes=full_hashes)
        options = EngineOptions(
            max_batch=settings.max_batch,
            max_queue=max(settings.max_queue, 4 * settings.max_batch),
            is_batching=settings.batching,
        )
        return cls(sampler, Engine(sampler, options), files=files, session=session)

    def resolve(
        self, fields: dict[str, Any], references: Sequence[bytes], output_format: str
    ) -> dict[str, Any]:
        """A request's fields with every default filled in, the seed too. Raises InputError.

        So a job that is run again after a crash gives the same images.
        """
        for name in fields.keys() - set(_FIELDS):
            raise InputError(f"{name}: no such field; known are {', '.join(_FIELDS)}")
        if output_format not in FORMATS:
            raise InputError(f"output_format: {output_format!r}; give {', '.join(FORMATS)}")
        request = ImageRequest(**fields)
        request.validate()
        session.check_output(
            request, self._session.provenance, OutputOptions(FORMATS[output_format])
        )
        opened = session.open_references(references)
        resolved = self.sampler.resolve(replace(request, reference_images=opened))
        return {
            "prompt": fields["prompt"],
            "negative_prompt": resolved.negative_prompt,
            "width": resolved.width,
            "height": resolved.height,
            "num_inference_steps": resolved.num_inference_steps,
            "guidance_scale": resolved.guidance_scale,
            "seed": resolved.seed,
            "num_images": resolved.num_images,
        }

    def warnings(self, job: Job) -> tuple[RequestWarning, ...]:
        """What the model was not trained for and a job asks; quick once it was asked before."""
        return self._warnings(json.dumps(job.request), job.num_references)

    def _new_warnings(self, request: str, num_references: int) -> tuple[RequestWarning, ...]:
        resolved = request_warnings.resolved(json.loads(request), num_references)
        return self.sampler.request_warnings(resolved, list_command=request_warnings.LIST_ROUTE)

    def prepare(
        self, claim: Claim, references: Sequence[bytes], log: AuditLog | None
    ) -> PreparedRequest:
        """A job moderated, with its references read. Raises InputError, ModeratedError."""
        job = claim.job
        own = replace(self._session, tolerance=claim.safety_tolerance, audit=JobAudit(log, job))
        checked = session.check(
            ImageRequest(**job.request, reference_images=tuple(references)),
            own,
            OutputOptions(FORMATS[job.output_format], claim.output_quality),
        )
        return session.prepare(checked, self.sampler, self._files)

    def submit(
        self,
        prepared: PreparedRequest,
        on_event: Callable[[Event], None],
        *,
        key: str,
        with_previews: bool,
    ) -> Ticket:
        """Hand a job to the engine."""
        return self.engine.submit(
            prepared.resolved, key=key, on_event=on_event, with_previews=with_previews
        )

    def finish(self, prepared: PreparedRequest, sampled: Sequence[SampledImage]) -> FinishedJob:
        """The decoded images as files; each is in the audit log. Raises KleinodError, OSError."""
        outcomes = list(session.finish(prepared, [one.image for one in sampled]))
        return FinishedJob(
            [one for one in outcomes if isinstance(one, GeneratedImage)],
            [one for one in outcomes if isinstance(one, BlockedImage)],
        )

    def close(self) -> None:
        """Stop the engine at the next step."""
        self.engine.close(finish=False)
