"""Log lines that say what became of a job: who painted it, with what, for how long.

A prompt is in them only where `log_prompts` asks for it.
"""

import logging

from kleinod.display import printable
from kleinod.server.job_queue.job import Job

MAX_PROMPT_CHARACTERS = 300
_log = logging.getLogger("kleinod.jobs")


def log_start(job: Job, *, has_prompt: bool) -> None:
    """A job is taken by this server; another one, or this one before, may have begun it."""
    facts = {"job": job.id, "model": job.model, "key": job.key_id, "attempt": job.attempts}
    again = f", again (attempt {job.attempts})" if job.attempts > 1 else ""
    words = ""
    if has_prompt:
        facts["prompt"] = job.request["prompt"]
        words = f": {printable(job.request['prompt'], limit=MAX_PROMPT_CHARACTERS)}"
    _log.info("job %s starts, model %s%s%s", job.id, job.model, again, words, extra=facts)


def log_end(job: Job) -> None:
    """A job has ended here."""
    begun = job.started_at or job.created_at
    seconds = ((job.finished_at or begun) - begun).total_seconds()
    facts = {"job": job.id, "model": job.model, "key": job.key_id, "status": str(job.status)}
    count = f", {len(job.results)} pictures" if len(job.results) != 1 else ""
    _log.info(
        *("job %s %s, model %s%s, %.2f s", job.id, job.status, job.model, count, seconds),
        extra=facts | {"seconds": round(seconds, 3)},
    )
