"""All that comes before denoising; whatever a user's input can spoil is found out here.

ImageRequest -- check --> CheckedRequest -- prepare (sampler, files) --> PreparedRequest
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from kleinod import catalog, images
from kleinod.audit import audit_log
from kleinod.audit.audit_log import Event
from kleinod.display import quoted
from kleinod.errors import InputError, ModeratedError
from kleinod.images import OpenedReference
from kleinod.provenance import authority, container, manifest
from kleinod.provenance.authority import Identity
from kleinod.provenance.ingredients import Ingredient, read_ingredients
from kleinod.provenance.receipt import ProvenanceOptions, Receipt
from kleinod.request import ImageRequest, ResolvedRequest, as_integer
from kleinod.request_warnings import RequestWarning
from kleinod.safety import Guard, Policy, Screening
from kleinod.safety.policy import NOTE
from kleinod.safety.verdicts import DEFAULT_TOLERANCE

if TYPE_CHECKING:
    from kleinod.diffusion.sampler import Sampler
    from kleinod.provenance.facts import ModelFile


class AuditTrail(Protocol):
    """Where a session writes what it generated and what it blocked."""

    def check(self) -> None:
        """Raise InputError where events could not be written; called before denoising."""

    def record(self, event: Event) -> None:
        """Write an event; what it raises keeps the image from its owner."""


class ConfiguredAudit:
    """The log of $KLEINOD_AUDIT_LOG; nothing where none is configured."""

    def check(self) -> None:
        """Raise InputError where the log cannot be written."""
        log = audit_log.configured()
        if log is not None:
            log.check()

    def record(self, event: Event) -> None:
        """Write an event. Raises InputError."""
        audit_log.append(event)


@dataclass(frozen=True, repr=False)
class Session:
    """What every image of one user or server gets: who moderates it, and its provenance.

    guard: the filters; None where they are switched off. tolerance: 0 (strict) to 5 (loose).
    """

    guard: Guard | None
    provenance: ProvenanceOptions = field(default_factory=ProvenanceOptions)
    tolerance: int = DEFAULT_TOLERANCE
    audit: AuditTrail = field(default_factory=ConfiguredAudit)

    def __repr__(self) -> str:
        safety = f"'on', tolerance={self.tolerance}" if self.guard else "'off'"
        return f"Session(safety={safety}, provenance={self.provenance!r})"

    @classmethod
    def configured(
        cls,
        *,
        safety: str | bool | None = None,
        tolerance: int = DEFAULT_TOLERANCE,
        provenance: ProvenanceOptions | None = None,
        brands: str = NOTE,
    ) -> "Session":
        """With the filters of `safety.toml`; safety "on" or "off" (or a bool) overrides it.

        brands: "note" for a local user, "block" for others, where the file does not say it.

        Raises InputError.
        """
        if isinstance(safety, bool):
            safety = "on" if safety else "off"
        if not isinstance(safety, str | None) or safety not in (None, "on", "off"):
            raise InputError(f"safety: {quoted(safety)} is unknown; give on or off")
        tolerance = as_integer(tolerance)
        if not isinstance(provenance, ProvenanceOptions | None):
            raise InputError(
                f"provenance: {quoted(provenance)} is no kleinod.ProvenanceOptions; give "
                "kleinod.ProvenanceOptions(watermark='none', c2pa=False) or the like"
            )
        guard = Guard.where_on(Policy.configured().switched(safety).with_brands(brands))
        Screening(guard, tolerance=tolerance)  # checks the tolerance
        return cls(guard, provenance or ProvenanceOptions(), tolerance)


@dataclass(frozen=True)
class OutputOptions:
    """The kind of file: PNG, JPEG, WEBP or AVIF; quality 0 to 100 of a lossy one."""

    format_name: str = "PNG"
    quality: int | None = None


@dataclass(frozen=True)
class Signing:
    """Who signs, and the references as the manifest holds them."""

    identity: Identity
    ingredients: tuple[Ingredient, ...] = ()


@dataclass(frozen=True)
class CheckedRequest:
    """A request that passed every check that needs no model: valid, moderated, signer ready.

    request: its reference_images are the opened references. screening: the verdicts so far.
    """

    request: ImageRequest
    references: tuple[OpenedReference, ...]
    output: OutputOptions
    session: Session
    screening: Screening
    signing: Signing | None


@dataclass(frozen=True)
class PreparedRequest:
    """A request ready for the sampler, and the receipts of its images without their hashes.

    warnings: what the model was not trained for.
    """

    checked: CheckedRequest
    resolved: ResolvedRequest
    receipts: list[Receipt]
    warnings: tuple[RequestWarning, ...] = ()


def check(
    request: ImageRequest, session: Session, output: OutputOptions | None = None
) -> CheckedRequest:
    """Everything that can be checked before a model is loaded; no reference is read twice.

    Raises InputError, ModeratedError, FilterError.
    """
    output = output or OutputOptions()
    request.validate()
    check_output(request, session.provenance, output)
    references = open_references(request.references)
    session.audit.check()
    screening = Screening(session.guard, tolerance=session.tolerance)
    _moderate(request, references, session, screening)
    request = replace(request, reference_images=references)
    signing = prepare_signing(session.provenance, references)
    return CheckedRequest(request, references, output, session, screening, signing)


def prepare(
    checked: CheckedRequest, sampler: "Sampler", files: "Sequence[ModelFile]"
) -> PreparedRequest:
    """Resolve a checked request for a model; files: the model's, hashed.

    Raises InputError, and ModeratedError where the model's licence demands filters.
    """
    from kleinod.provenance import facts  # late: torch, which `check` does without

    if sampler.info.license == catalog.NON_COMMERCIAL:
        with recorded_blocks(checked.session, "\n".join(checked.request.prompts)):
            checked.screening.demand_filters()
    resolved = sampler.resolve(checked.request)
    receipts = facts.draft_receipts(
        sampler,
        resolved,
        list(files),
        checked.session.provenance,
        references=[reference.image for reference in checked.references],
    )
    # decoded pictures are large and no longer needed; their files are, for the manifest
    return PreparedRequest(
        replace(checked, request=replace(checked.request, reference_images=()), references=()),
        resolved,
        receipts,
        sampler.request_warnings(resolved),
    )


def open_references(sources: Sequence[Any]) -> tuple[OpenedReference, ...]:
    """Read and decode each reference once, and check its size. Raises InputError with its name."""
    return tuple(_open_reference(source, number) for number, source in enumerate(sources, start=1))


def _open_reference(source: Any, number: int) -> OpenedReference:  # noqa: ANN401 - anything
    if isinstance(source, OpenedReference):
        opened = source
    else:
        name = None if isinstance(source, str | os.PathLike) else f"reference {number}"
        opened = images.open_reference(source, name=name)
    try:
        images.prepared_size(*opened.image.size)
    except InputError as error:
        where = source if isinstance(source, str | os.PathLike) else opened.name
        raise InputError(f"{error} ({where})") from error
    return opened


def check_output(
    request: ImageRequest, provenance: ProvenanceOptions, output: OutputOptions
) -> None:
    """Raise InputError where the kind of file cannot hold the watermark or the receipt."""
    container.check_format(output.format_name)
    container.check_quality(output.quality)
    container.check_mark(provenance.watermark, output.format_name)
    if not provenance.private:
        for prompt in request.prompts:
            container.check_words(prompt + request.negative_prompt, output.format_name)


def _moderate(
    request: ImageRequest,
    references: Sequence[OpenedReference],
    session: Session,
    screening: Screening,
) -> None:
    for prompt in request.prompts:
        with recorded_blocks(session, prompt):
            screening.check_prompt(prompt)
    with recorded_blocks(session, "\n".join(request.prompts)):
        screening.check_split(request.prompts)
        for reference in references:
            screening.check_reference(reference.image)


@contextmanager
def recorded_blocks(session: Session, prompt: str | None) -> Iterator[None]:
    """Write what a filter blocks in here to the audit log before the error goes on."""
    try:
        yield
    except ModeratedError as error:
        words = None if session.provenance.private else prompt
        session.audit.record(audit_log.moderated(error, prompt=words))
        raise


def prepare_signing(
    provenance: ProvenanceOptions, references: Sequence[OpenedReference] = ()
) -> Signing | None:
    """What signs, tried once, and the references; None where it is off. Raises InputError."""
    if not provenance.c2pa:
        return None
    identity = authority.identity()
    manifest.check_identity(identity)
    titles = [
        f"reference {number}" if provenance.private else reference.name
        for number, reference in enumerate(references, start=1)
    ]
    return Signing(identity, tuple(read_ingredients(references, titles)))
