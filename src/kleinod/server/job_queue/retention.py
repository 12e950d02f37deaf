"""What is old goes: first the pictures, then the row that says where they lie."""

import asyncio
import logging

from sqlalchemy.exc import SQLAlchemyError

from kleinod.server.job_queue.storage import Storage
from kleinod.server.job_queue.store import JobStore
from kleinod.server.threads import Threads

_EVERY_SECONDS = 60.0

_log = logging.getLogger(__name__)


class Retention:
    """Removes ended jobs whose time is over, and what was never fully accepted."""

    def __init__(self, store: JobStore, storage: Storage, threads: Threads) -> None:
        self._store, self._storage, self._threads = store, storage, threads

    async def run(self) -> None:
        """For ever."""
        while True:
            try:
                while await self._threads.run(self.sweep):
                    pass
            except (SQLAlchemyError, OSError) as error:
                _log.error("retention: %s; trying again", " ".join(str(error).split()))
            await asyncio.sleep(_EVERY_SECONDS)

    def sweep(self) -> int:
        """Remove some expired jobs; how many. Blocks."""
        expired = self._store.expired()
        for job_id in expired:
            self._storage.remove(f"results/{job_id}")
            self._storage.remove(f"references/{job_id}")
        if expired:
            self._store.remove(expired)
        return len(expired)
