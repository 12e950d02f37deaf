"""The service from a job to its signed file, with the built-in model, without HTTP."""

import asyncio
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from PIL import Image
from serving import SIDE, ended, new_job, running
from sqlalchemy import update

from kleinod.audit import audit_log
from kleinod.audit.audit_log import AuditLog
from kleinod.errors import InputError
from kleinod.provenance import container, verification
from kleinod.server.job_queue import signed_urls
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import Job, JobEnded, JobProgress, JobStatus
from kleinod.server.job_queue.retention import Retention
from kleinod.server.job_queue.store import JobStore, Limits
from kleinod.server.job_queue.tables import JobRow
from kleinod.server.service import Service
from kleinod.server.threads import Threads

LIMITS = Limits(max_queue=9, key_concurrency=9, key_requests_per_minute=9, result_seconds=100)


@dataclass
class Served:
    """A service in a loop that tests step."""

    service: Service
    folder: Path
    runner: asyncio.Runner

    def paint(self, **fields: object) -> Job:
        """A job from beginning to end."""

        async def whole() -> Job:
            return await ended(self.service, await self.service.accept(new_job(**fields)))  # type: ignore[arg-type] - fields of NewJob

        return self.runner.run(whole())

    def file(self, job: Job) -> bytes:
        """The picture of a job that has one."""
        data = self.runner.run(self.service.picture(job.results[0].path))
        assert data is not None
        return data


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("service")
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        service = runner.run(stack.enter_async_context(running(folder)))
        yield Served(service, folder, runner)
        runner.run(stack.aclose())


def _picture(colour: str = "brown") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (96, 80), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_job_becomes_a_signed_picture_with_its_receipt(served: Served, tmp_path: Path) -> None:
    job = served.paint(request={"seed": 7})
    assert job.status is JobStatus.READY and job.progress == 1 and job.attempts == 1
    (tmp_path / "x.png").write_bytes(served.file(job))
    with Image.open(tmp_path / "x.png") as picture:
        receipt = container.receipt_in(picture)
        assert picture.size == (SIDE, SIDE)
    assert receipt is not None and receipt["request"]["seed"] == 7 == job.results[0].seed
    assert receipt["c2pa"] == "on" and receipt["watermark"]["method"] == "robust"
    findings = verification.findings(verification.evidence(tmp_path / "x.png"))
    assert findings.wrong == [] and findings.proved


def test_seed_is_drawn_when_a_job_is_accepted(served: Served) -> None:
    job = served.runner.run(served.service.accept(new_job()))
    seed = job.request["seed"]
    assert isinstance(seed, int)
    done = served.runner.run(ended(served.service, job))
    again = served.paint(request={"seed": seed})
    pixels = [Image.open(io.BytesIO(served.file(one))).tobytes() for one in (done, again)]
    assert pixels[0] == pixels[1]


def test_formats_and_quality(served: Served) -> None:
    sizes = {}
    for name, quality in (("jpeg", 95), ("jpeg", 5), ("webp", 50)):
        job = served.paint(output_format=name, output_quality=quality, request={"seed": 3})
        with Image.open(io.BytesIO(served.file(job))) as picture:
            assert picture.format == name.upper() and job.results[0].format == name
        sizes[name, quality] = len(served.file(job))
    assert sizes["jpeg", 5] < sizes["jpeg", 95]


def test_references_are_used_named_and_removed(served: Served) -> None:
    job = served.paint(references=(_picture(), _picture("blue")), request={"width": None})
    assert job.status is JobStatus.READY
    with Image.open(io.BytesIO(served.file(job))) as picture:
        receipt = container.receipt_in(picture)
    assert receipt is not None and len(receipt["request"]["reference_images"]) == 2
    served.runner.run(_gone(served.folder / "pictures" / "references" / job.id))


async def _gone(path: Path) -> None:
    """Wait until it is: it goes after the end was told."""
    async with asyncio.timeout(30):
        while path.exists():
            await asyncio.sleep(0.02)


def test_several_pictures_have_the_next_seeds(served: Served) -> None:
    job = served.paint(request={"num_images": 3, "seed": 5})
    assert [image.seed for image in job.results] == [5, 6, 7]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"request": {"guidance_scale": 3.0}}, "guidance_scale"),
        ({"request": {"width": 65}}, "multiple of 16"),
        ({"references": (b"no picture",)}, "cannot read reference 1"),
        ({"output_format": "gif"}, "output_format"),
        ({"request": {"prompt": "x" * 60000}, "output_format": "jpeg"}, "prompt"),
    ],
)
def test_mistakes_are_refused_before_a_job_exists(
    served: Served, fields: Mapping[str, object], message: str
) -> None:
    store = JobStore(Database(served.service.settings.database), LIMITS)
    before = sum(store.counts().values())
    with pytest.raises(InputError, match=message):
        served.paint(**fields)
    assert sum(store.counts().values()) == before


def test_events_tell_progress_previews_and_the_end(served: Served) -> None:
    async def heard() -> list[object]:
        new = new_job(with_previews=True, request={"num_inference_steps": 6})
        job = await served.service.accept(new)
        return [event async for event in served.service.events(job.id)]

    *progress, end = served.runner.run(heard())
    assert isinstance(end, JobEnded) and end.job.status is JobStatus.READY
    told = [event for event in progress if isinstance(event, JobProgress)]
    assert len(told) == len(progress) and all(event.num_steps == 6 for event in told)
    previews = [event.preview_jpeg for event in told if event.preview_jpeg]
    assert previews and Image.open(io.BytesIO(previews[0])).format == "JPEG"


def test_running_job_is_cancelled(served: Served) -> None:
    async def cancelled() -> Job:
        job = await served.service.accept(new_job(request={"num_inference_steps": 1000}))
        events = served.service.events(job.id)
        assert isinstance(await anext(events), JobProgress)
        assert not await served.service.cancel(job.id, "someone else")
        assert await served.service.cancel(job.id, "")
        *_, end = [event async for event in events]
        assert isinstance(end, JobEnded)
        return end.job

    job = served.runner.run(cancelled())
    assert job.status is JobStatus.CANCELLED and job.results == ()


def test_another_key_sees_nothing(served: Served) -> None:
    job = served.paint(key_id="mine")
    assert served.runner.run(served.service.job(job.id, "mine")) == job
    for key in ("other", ""):
        assert served.runner.run(served.service.job(job.id, key)) is None
    assert served.runner.run(served.service.job("no\0such", "mine")) is None


def test_pictures_url_is_valid_for_a_while_and_for_itself(served: Served) -> None:
    job = served.paint()
    url = urlsplit(served.service.signed_path(job.results[0]))
    query = parse_qs(url.query)
    expires, signature = query["expires"][0], query["signature"][0]
    check = served.service.check_signature
    assert check(url.path, expires, signature)
    assert not check(url.path, str(int(expires) + 1), signature)
    assert not check(url.path.replace("0.png", "1.png"), expires, signature)
    assert not check(url.path, expires, "é" + signature[1:])
    assert not check(url.path, "٣", signature)
    secret = served.service._url_secret
    late = signed_urls.is_valid_url(
        secret, url.path, expires, signature=signature, now_seconds=int(expires)
    )
    assert not late


@pytest.mark.parametrize("path", ["kleinod.db", "../kleinod.db", "results/../../kleinod.db", ""])
def test_nothing_but_results_is_given_out(served: Served, path: str) -> None:
    assert served.runner.run(served.service.picture(path)) is None


def test_old_results_are_removed_with_their_pictures(served: Served) -> None:
    job = served.paint()
    path = served.folder / "pictures" / job.results[0].path
    database = Database(served.service.settings.database)
    threads = Threads("test", 1)
    retention = Retention(JobStore(database, LIMITS), served.service._storage, threads)
    assert path.exists() and retention.sweep() == 0
    past = datetime.now(UTC) - timedelta(seconds=1)
    with database.writing() as session:
        session.execute(update(JobRow).where(JobRow.id == job.id).values(expires_at=past))
    assert retention.sweep() == 1 and not path.parent.exists()
    assert served.runner.run(served.service.job(job.id, "")) is None
    threads.close()
    database.close()


def test_filters_stop_a_prompt_and_say_why(served: Served) -> None:
    job = served.paint(prompt="a nude woman, explicit porn", safety_tolerance=0)
    assert job.status is JobStatus.REQUEST_MODERATED and job.moderation == ("sexual",)
    assert job.results == () and "prompt was blocked" in str(job.error)


def test_audit_log_tells_pictures_and_what_was_stopped(served: Served) -> None:
    painted = served.paint(key_id="mine")
    stopped = served.paint(prompt="explicit porn", safety_tolerance=0)
    told = {line["facts"]["job"]: line for line in _audit_lines() if "job" in line["facts"]}
    entry = told[painted.id]
    assert (entry["event"], entry["key"]) == ("generated", "mine")
    assert entry["facts"]["file_sha256"] == hashlib.sha256(served.file(painted)).hexdigest()
    assert told[stopped.id]["event"] == "moderated" and "prompt" not in told[stopped.id]


def test_no_picture_without_its_entry_in_the_audit_log(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(log: AuditLog, event: audit_log.Event) -> None:
        raise InputError("KLEINOD_AUDIT_LOG: /secret/place cannot be written")

    monkeypatch.setattr(AuditLog, "append", full)
    for prompt in ("a fox", "explicit porn"):
        job = served.paint(prompt=prompt, safety_tolerance=0)
        assert job.status is JobStatus.FAILED and "/secret/place" not in str(job.error)
        assert not (served.folder / "pictures" / "results" / job.id).exists()


def _audit_lines() -> list[dict[str, Any]]:
    text = audit_log.default_path().read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_metrics_tell_of_jobs_engine_and_memory(served: Served) -> None:
    served.paint()
    text = served.runner.run(served.service.metrics_text())[0].decode()
    for line in (
        'kleinod_jobs_total{api="bfl",model="mini",status="ready"}',
        'kleinod_stage_seconds_count{stage="finish"}',
        'kleinod_steps_total{model="mini"}',
        'kleinod_stored_jobs{status="ready"}',
        "kleinod_peak_memory_bytes",
    ):
        assert line in text
    assert "prompt" not in text


def test_stopped_service_leaves_its_jobs_to_the_next(tmp_path: Path) -> None:
    async def first() -> Job:
        async with running(tmp_path) as service:
            job = await service.accept(new_job(request={"num_inference_steps": 1000, "seed": 1}))
            async for event in service.events(job.id):
                assert isinstance(event, JobProgress)
                return job
        raise AssertionError("no progress")

    async def second(job: Job) -> Job:
        database = Database(f"sqlite:///{tmp_path / 'kleinod.db'}")
        with database.writing() as session:  # a shorter one, so that the test is short
            session.execute(update(JobRow).values(request=job.request | {"num_inference_steps": 1}))
        database.close()
        async with running(tmp_path) as service:
            return await ended(service, job)

    job = asyncio.run(first())
    done = asyncio.run(second(job))
    assert done.status is JobStatus.READY and done.attempts == 2 and done.results[0].seed == 1


@pytest.mark.slow
def test_servers_on_one_postgresql_share_the_queue(database_url: str, tmp_path: Path) -> None:
    async def both() -> list[Job]:
        shared = {"database_url": database_url, "max_batch": 1}
        async with running(tmp_path, **shared) as one, running(tmp_path, **shared) as two:
            services = [one, two] * 4
            jobs = [await service.accept(new_job(request={"seed": 1})) for service in services]
            # each asks the other one
            return [await ended(s, j) for s, j in zip([two, one] * 4, jobs, strict=True)]

    jobs = asyncio.run(both())
    assert {job.status for job in jobs} == {JobStatus.READY}
    assert {job.attempts for job in jobs} == {1}


def test_storage_may_be_elsewhere(tmp_path: Path) -> None:
    async def painted() -> bytes | None:
        async with running(tmp_path, storage_url="memory://pictures") as service:
            job = await ended(service, await service.accept(new_job(references=(_picture(),))))
            return await service.picture(job.results[0].path)

    data = asyncio.run(painted())
    assert data is not None and data.startswith(b"\x89PNG")
    assert not (tmp_path / "pictures").exists()


@dataclass
class Receiver:
    """Takes webhooks; the first answers are failures."""

    failures: int
    bodies: list[bytes] = field(default_factory=list)
    signatures: list[str] = field(default_factory=list)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> int:
        """As a server would."""
        self.bodies.append(body)
        self.signatures.append(headers["X-BFL-Signature"])
        if len(self.bodies) <= self.failures:
            raise OSError("refused")
        return 204


@pytest.mark.slow
def test_webhook_is_signed_sent_again_and_survives_a_restart(tmp_path: Path) -> None:
    receiver = Receiver(failures=2)
    hook = {"webhook_url": "https://example.com/hook", "webhook_secret": "geheim"}
    delays = {"webhook_delays_seconds": (0.1, 0.1, 0.1)}

    async def until(count: int, service: Service, job: Job) -> None:
        await ended(service, job)
        async with asyncio.timeout(60):
            while len(receiver.bodies) < count:
                await asyncio.sleep(0.05)

    async def first() -> Job:
        async with running(tmp_path, post=receiver.post, **delays) as service:
            job = await service.accept(new_job(**hook))
            await until(1, service, job)
            return job

    async def second(job: Job) -> None:
        async with running(tmp_path, post=receiver.post, **delays) as service:
            await until(3, service, job)
            await asyncio.sleep(1)

    job = asyncio.run(first())
    asyncio.run(second(job))
    assert len(receiver.bodies) == 3, "sent after it was delivered"
    assert json.loads(receiver.bodies[-1])["id"] == job.id
    assert signed_urls.webhook_signature("geheim", receiver.bodies[-1]) == receiver.signatures[-1]
