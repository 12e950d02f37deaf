"""Who may ask: without keys only this machine's own programs, with keys only their holders.

Judged from the head of a request, before its body is read. Without keys the address must be this
machine's, the Host must name it (a web page that has its name resolve to 127.0.0.1 is another
host), and a browser must be on a page of this server. With keys the health checks, the page and
signed pictures are open, the rest is not.
"""

from dataclasses import dataclass
from ipaddress import ip_address

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from kleinod.server.api import native
from kleinod.server.api.context import Context
from kleinod.server.api.problems import OPENAI_PATHS, Problem, answer
from kleinod.server.untrusted.urls import host_name, normal_origin

NEEDS_KEY = "/v1/"
# asked by what watches the process, with HTTP/1.0, by any name or by none; they tell nothing
HEALTH = ("/healthz", "/readyz")
LOCAL_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
MAX_KEY_CHARACTERS = 200


@dataclass(frozen=True)
class Access:
    """Refuses strangers; puts the key's id, "" without keys, into scope["state"]["key_id"]."""

    app: ASGIApp
    context: Context

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        problem, key_id = await self._judged(scope["path"], scope)
        if problem is not None:
            await answer(scope["path"], problem)(scope, receive, send)
            return
        scope.setdefault("state", {})["key_id"] = key_id
        await self.app(scope, receive, send)

    async def _judged(self, path: str, scope: Scope) -> tuple[Problem | None, str]:
        """What is wrong with a request, and the id of its key."""
        headers, service = Headers(scope=scope), self.context.service
        is_guarded = path.startswith(NEEDS_KEY)
        if path in HEALTH:
            return None, ""
        if not service.is_ready or self.context.is_stopping:
            return (native.not_ready(self.context) if is_guarded else None), ""
        if not await service.has_keys():
            return self._stranger(scope, headers), ""
        return await self._holder(path, headers) if is_guarded else (None, "")

    def _stranger(self, scope: Scope, headers: Headers) -> Problem | None:
        """What is wrong with a request to a server without keys."""
        client = scope.get("client")
        if client is not None and not is_loopback(client[0]):
            return Problem(403, "no keys are configured, so only this machine is answered")
        host = headers.get("host", "")
        if host_name(host) not in LOCAL_NAMES:
            message = "no keys are configured, so the Host must be localhost or 127.0.0.1"
            return Problem(403, message)
        if not self._is_known_page(headers, host):
            return Problem(403, "no keys are configured, so no other web page is answered")
        return None

    def _is_known_page(self, headers: Headers, host: str) -> bool:
        """Whether a request comes from no browser, from the own page, or from a listed origin."""
        given = headers.get("origin")
        if given is None:
            return headers.get("sec-fetch-site") != "cross-site"
        origin = normal_origin(given)
        if origin is not None and origin in self.context.settings.cors_origins:
            return True
        is_own = origin in (normal_origin(f"http://{host}"), normal_origin(f"https://{host}"))
        return origin is not None and is_own and headers.get("sec-fetch-site") != "cross-site"

    async def _holder(self, path: str, headers: Headers) -> tuple[Problem | None, str]:
        secret = secret_of(headers)
        if secret is None:
            return _without_key(path), ""
        record = None
        if len(secret) <= MAX_KEY_CHARACTERS:
            record = await self.context.service.key(secret)
        if record is None:
            return Problem(401, "Incorrect API key provided.", code="invalid_api_key"), ""
        return None, record.id


def secret_of(headers: Headers) -> str | None:
    """The key a request brings, in BFL's header or in OpenAI's."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    bearer = token.strip() if scheme.lower() == "bearer" else ""
    return headers.get("x-key") or bearer or None


def _without_key(path: str) -> Problem:
    if path.startswith(OPENAI_PATHS):
        message = "You didn't provide an API key; send it as Authorization: Bearer YOUR_KEY."
        return Problem(401, message, headers={"WWW-Authenticate": "Bearer"})
    return Problem(403, "Not authenticated")


def is_loopback(address: str) -> bool:
    """Whether an address or localhost is this machine alone."""
    if address == "localhost":
        return True
    try:
        ip = ip_address(address)
    except ValueError:
        return False
    mapped = getattr(ip, "ipv4_mapped", None)
    return (mapped or ip).is_loopback
