"""What the operator's audit log is told of jobs and keys: on for a server unless switched off.

A job's end is told once, by the server that ended it; nothing in here is a secret or a picture.
"""

from typing import Any

from kleinod.provenance import audit
from kleinod.provenance.audit import AuditLog
from kleinod.server.jobs import Job, JobStatus
from kleinod.server.keys import KeyRecord

_NAMES = {
    JobStatus.READY: "generated",
    JobStatus.REQUEST_MODERATED: "moderated",
    JobStatus.CONTENT_MODERATED: "moderated",
    JobStatus.CANCELLED: "cancelled",
}


def log() -> AuditLog | None:
    """The configured log, checked; None if it is off. Raises InputError."""
    configured = audit.configured(default=audit.default_path())
    if configured is not None:
        configured.check()
    return configured


def job_ended(log: AuditLog | None, job: Job, pictures: list[dict[str, Any]]) -> None:
    """Tell a job's end. It blocks. Raises InputError where it cannot be written."""
    if log is None:
        return
    facts = {"job": job.id, "api": job.api, "model": job.model, "pictures": pictures}
    if job.error:
        facts["error"] = job.error
    name, prompt = _NAMES.get(job.status, "failed"), job.request["prompt"]
    log.append(audit.Event(name, job.key_id, job.moderation, prompt, facts))


def key_changed(log: AuditLog | None, record: KeyRecord, name: str) -> None:
    """Tell that a key was `key_created` or `key_revoked`. Raises InputError."""
    if log is not None:
        log.append(audit.Event(name, record.id, facts={"name": record.name}))
