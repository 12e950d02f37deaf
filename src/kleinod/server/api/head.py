"""HEAD wherever GET is answered: the same head, Content-Length included, and no body."""

from dataclasses import dataclass

import anyio
from starlette.types import ASGIApp, Message, Receive, Scope, Send


@dataclass(frozen=True)
class Head:
    """Has HEAD answered as GET, and leaves once the head is sent: a stream would go on for ever."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        scope.setdefault("state", {})  # shared with the copy: the log line names the key
        with anyio.CancelScope() as rest:

            async def send_head(message: Message) -> None:
                if message["type"] != "http.response.start" or rest.cancel_called:
                    return
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                rest.cancel()

            await self.app(dict(scope, method="GET"), receive, send_head)
