"""A process that runs a Service, to be killed: requests and answers are lines of JSON.

    crash_server.py DATA_FOLDER DATABASE_URL SOCKET

`{"accept": PROMPT, "seed": N, "key": KEY}` gives the job's id, `{"job": ID, "key": KEY}` its state.
"""

import asyncio
import json
import sys
from pathlib import Path

from serving import configured, new_job, refuse

from kleinod.server.service import Service


async def serve(folder: Path, database_url: str, socket: Path) -> None:
    """Start, listen, wait to be killed."""
    service = Service(configured(folder, database_url=database_url, max_batch=4), post=refuse)

    async def answer(asked: dict[str, object]) -> dict[str, object]:
        key = str(asked["key"])
        if "accept" in asked:
            request = {"seed": asked["seed"]}
            job = await service.accept(new_job(str(asked["accept"]), key_id=key, request=request))
            return {"id": job.id}
        found = await service.job(str(asked["job"]), key)
        if found is None:
            return {"status": None}
        paths = [image.path for image in found.results]
        return {"status": found.status, "error": found.error, "paths": paths}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(json.dumps(await answer(json.loads(line))).encode() + b"\n")
            await writer.drain()
        writer.close()

    await service.start()
    server = await asyncio.start_unix_server(connected, socket)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3])))
