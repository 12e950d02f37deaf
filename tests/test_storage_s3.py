"""Pictures in an object store: s3fs against moto's S3 over HTTP, as a service uses it."""

import asyncio
import io
from collections.abc import Iterator
from pathlib import Path

import boto3
import fsspec
import httpx2
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image
from serving import SIDE, ended, new_job, running

from kleinod.errors import InputError
from kleinod.server.job_queue.storage import Storage

URL = "s3://pictures/kleinod"


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadedMotoServer]:
    """An empty bucket `pictures`, found by what AWS's own tools read from the environment."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    variables = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    httpx2.post(f"{variables['AWS_ENDPOINT_URL']}/moto-api/reset", trust_env=False)
    boto3.client("s3").create_bucket(Bucket="pictures")
    yield server
    # a file system is kept by its arguments; the next test's server is another one
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    server.stop()


def _names() -> list[str]:
    found = boto3.client("s3").list_objects_v2(Bucket="pictures").get("Contents", [])
    return [item["Key"] for item in found]


def test_store_keeps_gives_back_and_removes(store: ThreadedMotoServer) -> None:
    storage = Storage(URL)
    storage.check()
    assert _names() == []
    assert storage.read("results/a/0.png") is None
    for data in (b"first", b"second"):
        storage.write("results/a/0.png", data)
        assert storage.read("results/a/0.png") == data
    # another server's view, made before this one writes
    other = Storage(URL)
    assert other.read("results/a/0.png") == b"second"
    storage.write("results/a/1.png", b"third")
    assert other.read("results/a/1.png") == b"third"
    storage.write("results/ab/0.png", b"of another job")
    other.remove("results/a")
    other.remove("results/a")
    assert _names() == ["kleinod/results/ab/0.png"]
    assert storage.read("results/a/1.png") is None


def test_bucket_that_is_not_there_is_told(store: ThreadedMotoServer) -> None:
    with pytest.raises(InputError, match="storage_url: absent/kleinod cannot be written"):
        Storage("s3://absent/kleinod").check()


def test_store_that_is_away_is_an_os_error(store: ThreadedMotoServer) -> None:
    storage = Storage(URL)
    storage.write("results/a/0.png", b"data")
    store.stop()
    for work in (
        lambda: storage.read("results/a/0.png"),
        lambda: storage.write("results/a/0.png", b"data"),
        lambda: storage.remove("results/a"),
    ):
        with pytest.raises(OSError):
            work()
    store.start()


def test_service_keeps_its_pictures_there(store: ThreadedMotoServer, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), "brown").save(buffer, "PNG")

    async def painted() -> bytes | None:
        async with running(tmp_path, storage_url=URL) as service:
            job = await ended(
                service, await service.accept(new_job(references=(buffer.getvalue(),)))
            )
            async with asyncio.timeout(30):
                while len(_names()) > 1:  # the reference goes after the end was told
                    await asyncio.sleep(0.05)
            assert _names() == [f"kleinod/{job.results[0].path}"]
            return await service.picture(job.results[0].path)

    data = asyncio.run(painted())
    assert data is not None and data.startswith(b"\x89PNG")
    assert not (tmp_path / "pictures").exists()
