"""Keys that are revoked, storage that fails, servers that stand still, in the middle of a job."""

import asyncio
import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from http_pictures import picture
from http_server import Server, finished
from http_server import serving as serving_process
from serving import ended, new_job, running
from sqlalchemy import select

from kleinod.server.job_queue import storage as storage_module
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import JobStatus, Unavailable
from kleinod.server.job_queue.tables import JobRow, WorkerRow
from kleinod.server.service import Service

KLEIN, PAINT = "/v1/flux-2-klein-4b", "/v1/images/generations"
# takes longer than a revoked key may be listened to
SLOW = {"prompt": "a fox", "width": 512, "height": 512, "steps": 100, "seed": 7}


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store is tried again at once."""
    monkeypatch.setattr(storage_module, "RETRY_SECONDS", (0.0, 0.0))


def failing(times: float, then: Callable[..., Any]) -> Callable[..., Any]:
    """Work that fails so often, then does what it should."""
    left = [times]

    def work(*arguments: Any) -> Any:  # noqa: ANN401 - stands for any method of a storage
        if left[0] > 0:
            left[0] -= 1
            raise OSError("the store is away")
        return then(*arguments)

    return work


def files(folder: Path) -> dict[str, str]:
    """The stored pictures' names and hashes."""
    results = folder / "pictures" / "results"
    found = (path for path in results.rglob("*") if path.is_file())
    return {
        str(path.relative_to(results)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in found
    }


def test_job_whose_references_cannot_be_stored_is_not_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            service._storage.write = failing(1, service._storage.write)  # type: ignore[method-assign]
            job = new_job(references=(picture(), picture()))
            with pytest.raises(Unavailable, match="storage does not answer"):
                await service.accept(job)
            assert not [path for path in (tmp_path / "pictures").rglob("*") if path.is_file()]
            assert (await ended(service, await service.accept(job))).status is JobStatus.READY

    asyncio.run(scenario())


def test_picture_is_stored_once_the_store_is_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            service._storage.write = failing(2, service._storage.write)  # type: ignore[method-assign]
            job = await ended(service, await service.accept(new_job()))
            assert job.status is JobStatus.READY
            assert await service.picture(job.results[0].path)

    asyncio.run(scenario())


def test_job_that_cannot_be_stored_fails_and_leaves_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            write, count = service._storage.write, [0]

            def second_fails(name: str, data: bytes) -> None:
                count[0] += 1
                if count[0] > 1:
                    raise OSError("the disk is full: /secret/place")
                write(name, data)

            service._storage.write = second_fails  # type: ignore[method-assign]
            job = await ended(service, await service.accept(new_job(request={"num_images": 2})))
            assert job.status is JobStatus.FAILED and not job.is_users_fault
            assert job.error and "try again" in job.error and "/secret" not in job.error
            assert files(tmp_path) == {}
            service._storage.write = write  # type: ignore[method-assign]
            assert (await ended(service, await service.accept(new_job()))).status is JobStatus.READY

    asyncio.run(scenario())


def test_store_that_gives_nothing_back_is_told_and_survived(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with running(tmp_path) as service:
            job = await ended(service, await service.accept(new_job()))
            read, remove = service._storage.read, service._storage.remove
            service._storage.read = failing(1, read)  # type: ignore[method-assign]
            with pytest.raises(Unavailable):
                await service.picture(job.results[0].path)
            assert await service.picture(job.results[0].path)
            # what cannot be removed is left to the next sweep, and the worker goes on
            service._storage.remove = failing(1e9, remove)  # type: ignore[method-assign]
            for _ in range(2):
                job = await ended(service, await service.accept(new_job(references=(picture(),))))
                assert job.status is JobStatus.READY

    asyncio.run(scenario())


async def _until(condition: Callable[[], Any], seconds: float = 60) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


def test_server_that_stalls_while_it_stores_changes_nothing(tmp_path: Path) -> None:
    """Its lease runs out between painting and storing; another server paints the job meanwhile."""

    async def scenario() -> None:
        async with running(tmp_path, lease_seconds=5) as first:
            reached, go_on = threading.Event(), threading.Event()
            write = first._storage.write

            def stall(name: str, data: bytes) -> None:
                reached.set()
                go_on.wait(120)
                write(name, data)

            first._storage.write = stall  # type: ignore[method-assign]
            job = await first.accept(new_job())
            await _until(reached.is_set)
            beat = _silence(first)
            async with running(tmp_path, lease_seconds=5) as second:
                done = await ended(second, job)
                assert done.status is JobStatus.READY and done.attempts == 2
                before = files(tmp_path)
                assert list(before) == [done.results[0].path.removeprefix("results/")]
                go_on.set()
                await _until(lambda: not first._worker.is_running(job.id))  # type: ignore[union-attr]
                assert files(tmp_path) == before
                assert await second.picture(done.results[0].path)
            first._worker._beat = beat  # type: ignore[union-attr,method-assign]
            assert (await ended(first, await first.accept(new_job()))).status is JobStatus.READY

    asyncio.run(scenario())


def _silence(service: Service) -> Callable[[dict[str, float]], Any]:
    """The service's lease is over and is not renewed; gives its heartbeat."""
    worker = service._worker
    assert worker is not None
    beat = worker._beat

    async def nothing(progress: dict[str, float]) -> None:
        return

    worker._beat = nothing  # type: ignore[method-assign]
    with service._database.writing() as session:
        for row in session.scalars(select(WorkerRow)):
            row.lease_until = row.lease_until.replace(year=2000)
    return beat


@pytest.mark.slow
def test_stopped_process_that_goes_on_changes_nothing(tmp_path: Path) -> None:
    """SIGSTOP for longer than the lease, with several jobs in the works."""
    with serving_process(tmp_path, lease_seconds=3) as first, first.client() as client:
        body = {"prompt": "a fox", "width": 128, "height": 128, "steps": 20, "output_format": "png"}
        tasks = [client.post(KLEIN, json=body | {"seed": seed}).json() for seed in range(8)]
        time.sleep(0.5)
        os.kill(first.process.pid, signal.SIGSTOP)
        other = tmp_path / "other"
        other.mkdir()
        shared = {
            "database_url": f"sqlite:///{tmp_path / 'kleinod.db'}",
            "storage_url": tmp_path / "pictures",
        }
        with serving_process(other, lease_seconds=3, **shared) as second, second.client() as asking:
            for task in tasks:
                path = f"/v1/get_result?id={task['id']}"
                assert finished(asking, path)["status"] == "Ready"
            before = files(tmp_path)
            os.kill(first.process.pid, signal.SIGCONT)
            time.sleep(6)
            assert files(tmp_path) == before
            assert len(before) == len(tasks)
            for speaking in (client, asking):
                task = speaking.post(KLEIN, json=body | {"seed": 1}).json()
                path = f"/v1/get_result?id={task['id']}"
                assert finished(speaking, path)["status"] == "Ready"
    log = first.log.read_text()
    assert "others have taken its jobs" in log


# revoked keys


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Keys, Database]]:
    folder = tmp_path_factory.mktemp("revoked")
    database = Database(f"sqlite:///{folder / 'kleinod.db'}")
    database.migrate()
    keys = Keys(database)
    keys.create("the first")
    with serving_process(folder) as server:
        yield server, keys, database
    database.close()


def _status(database: Database) -> str:
    with database.reading() as session:
        row = session.scalars(select(JobRow).order_by(JobRow.created_at.desc()).limit(1)).one()
        return str(row.status)


def _revoked_soon(keys: Keys, key_id: str) -> threading.Timer:
    timer = threading.Timer(1.0, keys.revoke, (key_id,))
    timer.start()
    return timer


@pytest.mark.parametrize("kind", ["events", "stream", "waiting"])
def test_open_answers_of_a_revoked_key_end(
    guarded: tuple[Server, Keys, Database], kind: str
) -> None:
    server, keys, database = guarded
    made = keys.create(kind)
    start = time.monotonic()
    with server.client(headers={"x-key": made.secret}) as client:
        if kind == "events":
            task = client.post(KLEIN, json=SLOW).json()
            _revoked_soon(keys, made.record.id)
            text = client.get(f"/v1/jobs/{task['id']}/events").text
            assert "event: error" in text and "revoked" in text and "event: end" not in text
        else:
            _revoked_soon(keys, made.record.id)
            wish = {"prompt": "a fox", "size": "512x512", "steps": 100, "seed": 7}
            answer = client.post(PAINT, json=wish | {"stream": kind == "stream"})
            assert answer.status_code == (200 if kind == "stream" else 401)
            assert "revoked" in answer.text and "b64_json" not in answer.text
        assert time.monotonic() - start < 20
        assert _status(database) == "running", "what was in the queue is finished, not cancelled"
        assert client.get("/v1/models").status_code == 401
    _cancel_all(database)


def _cancel_all(database: Database) -> None:
    """The next case need not wait for this one's picture."""
    with database.writing() as session:
        for row in session.scalars(select(JobRow).where(JobRow.status == "running")):
            row.is_cancelling = True
    deadline = time.monotonic() + 30
    while _status(database) == "running" and time.monotonic() < deadline:
        time.sleep(0.2)


def test_stream_of_a_valid_key_goes_on(guarded: tuple[Server, Keys, Database]) -> None:
    server, keys, _ = guarded
    made = keys.create("valid")
    with server.client(headers={"x-key": made.secret}) as client:
        wish = {"prompt": "a fox", "size": "64x64", "steps": 2, "stream": True}
        assert "image_generation.completed" in client.post(PAINT, json=wish).text
