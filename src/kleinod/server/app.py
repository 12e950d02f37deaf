"""The application: the routes of all APIs around one service, and the document that describes them.

    (CORS) ── observed ── HEAD ── access ── body limit ── routes

The service starts in the background, so that the event loop answers while a model loads.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from kleinod.server.api import bfl, native, openai, problems, vocabulary
from kleinod.server.api.access import Access
from kleinod.server.api.context import MODEL_HEADER, Context
from kleinod.server.api.head import Head
from kleinod.server.api.limits import BodyLimit
from kleinod.server.logs import Observed
from kleinod.version import __version__

_DESCRIPTION = """\
The FLUX.2 [klein] models behind the APIs that people already speak: BFL's and OpenAI's.
Without configured keys only programs on the same machine are answered; a key goes into `x-key` or
`Authorization: Bearer`.
"""
_SCHEMES = {
    "key": {"type": "apiKey", "in": "header", "name": "x-key"},
    "bearer": {"type": "http", "scheme": "bearer"},
}
# headers of answers that a page may read
_EXPOSED = ("X-Request-Id", "X-Seed", "X-Ignored-Fields", "Retry-After", MODEL_HEADER)
_PROMPTS = ("KleinInputs", "GenerationInputs")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hooks:
    """Whom the application tells that it is ready, or that it cannot become so."""

    on_ready: Callable[[], None]
    on_failure: Callable[[Exception], None]


def create_app(context: Context, hooks: Hooks) -> FastAPI:
    """The application. Nothing is opened before it runs."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(_start(context, hooks))
        yield
        context.is_stopping = True
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if context.service.is_ready:
            await context.service.stop(finish=True)

    app = FastAPI(
        title="kleinod",
        version=__version__,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
    )
    app.state.context = context
    app.add_middleware(BodyLimit, max_bytes=context.settings.max_body_bytes)
    app.add_middleware(Access, context=context)
    app.add_middleware(Head)
    app.add_middleware(Observed)
    _allow_pages(app, context.settings.cors_origins)
    problems.install(app)
    for router in (native.router, vocabulary.router, openai.router, bfl.router):
        app.include_router(router)
    document = app.openapi
    # FastAPI's documented way to change the document is to replace the method
    setattr(app, "openapi", lambda: described(document(), context))  # noqa: B010
    return app


def _allow_pages(app: FastAPI, origins: tuple[str, ...]) -> None:
    """Let web pages of these origins call: with a key of their own, never with cookies."""
    if origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=origins,
            allow_methods=("GET", "HEAD", "POST", "DELETE"),
            allow_headers=("*",),
            allow_credentials=False,
            expose_headers=_EXPOSED,
        )


async def _start(context: Context, hooks: Hooks) -> None:
    try:
        await context.service.start()
    except Exception as error:  # the edge: the process ends, and says why
        hooks.on_failure(error)
        return
    hooks.on_ready()


def described(document: dict[str, Any], context: Context) -> dict[str, Any]:
    """The OpenAPI document with what FastAPI does not know: keys, and the settings' limits."""
    components = document["components"]
    components["securitySchemes"] = _SCHEMES
    if context.service.report_address:
        document["info"]["contact"] = {"name": f"Reports to {context.service.report_address}"}
    document["security"] = [{}, *({name: []} for name in _SCHEMES)]
    _limit(components["schemas"], context)
    for path in document["paths"].values():
        for operation in path.values():
            _drop_unused(operation["responses"])
    for name in ("HTTPValidationError", "ValidationError"):
        components["schemas"].pop(name, None)
    return document


def _limit(schemas: dict[str, Any], context: Context) -> None:
    settings = context.settings
    for name in _PROMPTS:
        fields = schemas[name]["properties"]
        fields["prompt"]["maxLength"] = settings.max_prompt_characters
        fields["steps"]["anyOf"][0]["maximum"] = settings.max_steps
    number = schemas["GenerationInputs"]["properties"]["n"]["anyOf"][0]
    number["maximum"] = min(number["maximum"], settings.max_images)


def _drop_unused(responses: dict[str, Any]) -> None:
    """FastAPI notes a 422 of its own where a path has a parameter; no text is a wrong one there."""
    schema = responses.get("422", {}).get("content", {}).get("application/json", {}).get("schema")
    if schema == {"$ref": "#/components/schemas/HTTPValidationError"}:
        del responses["422"]
