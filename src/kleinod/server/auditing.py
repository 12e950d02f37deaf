"""What the operator's audit log is told of jobs and keys: on for a server unless switched off.

A picture is in the log before it lies in the storage: none may be somewhere that is not in it. A
job that is painted again after a crash is told again.
"""

from dataclasses import replace

from kleinod.audit import audit_log
from kleinod.audit.audit_log import AuditLog, Event
from kleinod.errors import InputError
from kleinod.server.job_queue.api_keys import KeyRecord
from kleinod.server.job_queue.job import Job, JobStatus


def log() -> AuditLog | None:
    """The configured log, checked; None if it is off. Raises InputError."""
    configured = audit_log.configured(default=audit_log.default_path())
    if configured is not None:
        configured.check()
    return configured


class JobAudit:
    """A session's audit trail for one job; it blocks, as all here."""

    def __init__(self, log: AuditLog | None, job: Job) -> None:
        self._log, self._job = log, job

    def check(self) -> None:
        """Nothing: the log was checked when the server started."""

    def record(self, event: Event) -> None:
        """Write an event with the job and its key. Raises OSError: the server's fault."""
        if self._log is None:
            return
        facts = {"job": self._job.id, **event.facts}
        try:
            self._log.append(replace(event, key=self._job.key_id, facts=facts))
        except InputError as error:
            raise OSError(str(error)) from error


def ended_without(log: AuditLog | None, job: Job) -> None:
    """Tell that a job failed or was cancelled. Raises InputError."""
    if log is None or job.status not in (JobStatus.FAILED, JobStatus.CANCELLED):
        return
    facts = {"job": job.id, "model": job.model, "error": job.error}
    log.append(
        audit_log.Event(str(job.status), job.key_id, prompt=job.request["prompt"], facts=facts)
    )


def key_changed(log: AuditLog | None, record: KeyRecord, name: str) -> None:
    """Tell that a key was `key_created` or `key_revoked`. Raises InputError."""
    if log is not None:
        log.append(audit_log.Event(name, record.id, facts={"name": record.name}))
