"""What the operator's audit log is told of jobs and keys: on for a server unless switched off.

A picture is in the log before it lies in the storage: none may be somewhere that is not in it. A
job that is painted again after a crash is told again.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from kleinod.errors import InputError, ModeratedError
from kleinod.provenance import audit
from kleinod.provenance.audit import AuditLog
from kleinod.server.jobs import Job, JobStatus
from kleinod.server.keys import KeyRecord

if TYPE_CHECKING:
    from kleinod.generation import FinishedImage  # torch, which `kleinod keys` does without


def log() -> AuditLog | None:
    """The configured log, checked; None if it is off. Raises InputError."""
    configured = audit.configured(default=audit.default_path())
    if configured is not None:
        configured.check()
    return configured


def painted(
    log: AuditLog | None,
    job: Job,
    files: "Sequence[FinishedImage]",
    stopped: Sequence[ModeratedError],
) -> None:
    """Tell each picture, and what a filter stopped. Raises InputError; it blocks, as all here."""
    if log is None:
        return
    events = [audit.generated(file.receipt, file.data, key=job.key_id) for file in files]
    prompt = str(job.request["prompt"])
    events += [audit.moderated(error, key=job.key_id, prompt=prompt) for error in stopped]
    try:
        for event in events:
            log.append(replace(event, facts={"job": job.id, **event.facts}))
    except InputError as error:
        raise OSError(str(error)) from error


def ended_without(log: AuditLog | None, job: Job) -> None:
    """Tell that a job failed or was cancelled. Raises InputError."""
    if log is None or job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        return
    facts = {"job": job.id, "model": job.model, "error": job.error}
    log.append(audit.Event(str(job.status), job.key_id, prompt=job.request["prompt"], facts=facts))


def key_changed(log: AuditLog | None, record: KeyRecord, name: str) -> None:
    """Tell that a key was `key_created` or `key_revoked`. Raises InputError."""
    if log is not None:
        log.append(audit.Event(name, record.id, facts={"name": record.name}))
