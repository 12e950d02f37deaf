"""`kleinod serve`: a socket, a service, a server, and the line that says how to use it."""

import asyncio
import logging
import os
import socket
import sys
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from kleinod.display import printable
from kleinod.errors import InputError, KleinodError
from kleinod.server import logs
from kleinod.server.api import access, bfl
from kleinod.server.api.context import Context, own_url
from kleinod.server.app import Hooks, create_app
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.job import Job
from kleinod.server.service import Service
from kleinod.server.settings import Settings
from kleinod.server.untrusted import fetching
from kleinod.version import __version__

_BACKLOG = 2048

_log = logging.getLogger(__name__)


def serve(settings: Settings) -> None:
    """Serve until a signal. Raises InputError where it cannot begin."""
    logs.install(settings.log_format)
    _check_keys(settings)
    listener = _listener(settings)
    port = listener.getsockname()[1]
    _Running(settings.model_copy(update={"port": port})).run(listener)


class _Running:
    """One server while it runs."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._failure: Exception | None = None
        send = partial(fetching.post, allow_private=settings.allow_private_urls)
        service = Service(settings, post=send, webhook_body=self._webhook_body)
        self._context = Context(service, settings)
        app = create_app(self._context, Hooks(self._ready, self._failed))
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=max(1, round(settings.finish_seconds)),
        )
        self._server = _Server(config, self._context)

    def run(self, listener: socket.socket) -> None:
        """Until a signal. Raises what kept it from starting."""
        loading = f"kleinod {__version__}: loading {printable(self._settings.model)}"
        print(loading, file=sys.stderr, flush=True)
        self._server.run(sockets=[listener])
        if self._failure is None:
            _log.info("stopped")
        if isinstance(self._failure, KleinodError):
            raise self._failure
        if self._failure is not None:
            raise InputError(f"serve: cannot start ({self._failure})") from self._failure

    def _ready(self) -> None:
        task = asyncio.create_task(self._greet())
        task.add_done_callback(lambda done: done.result())

    async def _greet(self) -> None:
        has_keys = await self._context.service.has_keys()
        models = [model.name for model in self._context.service.models()]
        for line in greeting(self._settings, models, has_keys=has_keys):
            print(printable(line), flush=True)
        _log.info("started: %s at %s", ", ".join(models), own_url(self._settings))

    def _failed(self, error: Exception) -> None:
        self._failure = error
        self._server.should_exit = True

    def _webhook_body(self, job: Job) -> dict[str, Any]:
        return bfl.webhook_body(job, self._context)


class _Server(uvicorn.Server):
    """Says that it is stopping before it waits for its connections."""

    def __init__(self, config: uvicorn.Config, context: Context) -> None:
        super().__init__(config)
        self._context, self._is_asked = context, False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal asks it to stop; a model that cannot be loaded ends it without."""
        self._is_asked = True
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, finish, leave."""
        self._context.is_stopping = True
        seconds = self._context.settings.finish_seconds
        words = (
            f"stopping: what runs may take {seconds:g} s more, the rest waits for the next start"
        )
        if self._is_asked:
            print(words, file=sys.stderr, flush=True)
            _log.info("stopping")
        await super().shutdown(sockets)


def greeting(settings: Settings, models: list[str], *, has_keys: bool) -> list[str]:
    """Address, model, and a command that paints a picture."""
    url = own_url(settings)
    key = '-H "Authorization: Bearer $KEY" ' if has_keys else ""
    return [
        f"kleinod {__version__} serves {', '.join(models)} at {url} (the page: {url}/)",
        f"curl {url}/v1/images/generations {key}-H 'Content-Type: application/json' "
        "-H 'Accept: image/png' -d '{\"prompt\": \"a fox on a blue background\"}' -o fox.png",
    ]


def _check_keys(settings: Settings) -> None:
    """Raise InputError if the network could reach a server without keys."""
    if access.is_loopback(settings.host):
        return
    database = Database(settings.database)
    try:
        database.migrate()
        is_guarded = Keys(database).are_configured()
    finally:
        database.close()
    if not is_guarded:
        raise InputError(
            f"host: {settings.host} can be reached from the network and there are no keys; make "
            "one with `kleinod keys create NAME`, or leave --host out"
        )


def _listener(settings: Settings) -> socket.socket:
    """A bound socket. Raises InputError."""
    host, port = settings.host, settings.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    if os.name == "posix":
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        reason = error.strerror or str(error)
        raise InputError(
            f"port: cannot listen at {host}:{port} ({reason}); choose another with --port"
        ) from error
    listener.setblocking(False)
    return listener
