"""A Service with the built-in model in a test: small pictures, a folder of its own."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from kleinod.server import settings as settings_module
from kleinod.server.job_queue.job import Job, JobEnded, NewJob
from kleinod.server.job_queue.webhooks import Post
from kleinod.server.service import Service
from kleinod.server.settings import Settings

SIDE = 64
Value = Any  # of a setting, or of a field of NewJob


async def refuse(url: str, body: bytes, headers: Mapping[str, str]) -> int:
    """Stands for the network where a test sends nothing."""
    raise OSError(f"no network for {url}")


def configured(folder: Path, **fields: Value) -> Settings:
    """Settings with everything below a folder; the tests' environment has none of ours."""
    return settings_module.load(data_folder=folder, **fields)


@asynccontextmanager
async def running(folder: Path, *, post: Post = refuse, **fields: Value) -> AsyncIterator[Service]:
    """A started service; stopped at the end without finishing."""
    service = Service(configured(folder, **fields), post=post)
    await service.start()
    try:
        yield service
    finally:
        await service.stop(finish=False)


def new_job(prompt: str = "a fox", *, key_id: str = "", **fields: Value) -> NewJob:
    """A small job for mini."""
    request = {"prompt": prompt, "width": SIDE, "height": SIDE, "num_inference_steps": 2}
    return NewJob(key_id, "bfl", "mini", request | fields.pop("request", {}), **fields)


async def ended(service: Service, job: Job) -> Job:
    """Wait for the end of a job."""
    async with asyncio.timeout(60):
        async for event in service.events(job.id):
            if isinstance(event, JobEnded):
                return event.job
    raise AssertionError("the events stopped without an end")
