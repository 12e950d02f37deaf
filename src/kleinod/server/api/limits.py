"""Requests that are whole and not too large: a body over the limit is answered with 413.

The rest of such a body is read and thrown away for a while, so that a client which only reads the
answer once it has sent everything gets to see it.
"""

import asyncio
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kleinod.server.api.problems import Problem, TooLarge, answer

DRAIN_SECONDS = 10
DRAIN_BYTES = 256 * 2**20


@dataclass(frozen=True)
class BodyLimit:
    """Counts the bytes of a body while they arrive."""

    app: ASGIApp
    max_bytes: int

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, or answer with 413."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "0")
        if length.isdigit() and int(length) > self.max_bytes:
            await self._refuse(scope, receive, send)
            return
        num_bytes, is_going_on = 0, True

        async def counted() -> Message:
            nonlocal num_bytes, is_going_on
            message = await receive()
            is_going_on = message.get("more_body", False)
            num_bytes += len(message.get("body", b""))
            if num_bytes > self.max_bytes:
                raise TooLarge
            return message

        try:
            await self.app(scope, counted, send)
        except TooLarge:
            await self._refuse(scope, receive if is_going_on else _ended, send)

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = f"the body is over {self.max_bytes} bytes, the limit; send smaller pictures"
        problem = Problem(413, message, code="request_too_large", headers={"Connection": "close"})
        await _drain(receive)
        await answer(scope["path"], problem)(scope, receive, send)


async def _ended() -> Message:
    """What follows the last piece of a body."""
    return {"type": "http.request"}


async def _drain(receive: Receive) -> None:
    num_bytes, is_going_on = 0, True
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while is_going_on and num_bytes < DRAIN_BYTES:
                message = await receive()
                num_bytes += len(message.get("body", b""))
                is_going_on = message.get("more_body", False)
    except TimeoutError:
        return
