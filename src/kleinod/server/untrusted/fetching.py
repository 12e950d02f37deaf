"""Pictures by URL, fetched so that nobody can reach through this server what they cannot reach.

The name is resolved once, every address it has is checked, and the connection is made to a checked
address: an answer that changes between check and use (DNS rebinding) has no use. Each redirect is
a new request, checked anew. No proxy from the environment, no cookies, no decompression.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpcore2

from kleinod.errors import InputError
from kleinod.server.untrusted.urls import join_url, split_url
from kleinod.version import __version__

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_URL_CHARACTERS = 2083
# RFC 6052: the last four bytes are an IPv4 address
_TRANSLATED = ipaddress.ip_network("64:ff9b::/96")
# IPv4 inside IPv6 on ways that nobody needs (local translation, 6to4, Teredo, ::a.b.c.d), and what
# Python's own lists leave out in some versions, a cloud's metadata at 192.0.0.192 among it
_CLOSED = tuple(
    ipaddress.ip_network(text)
    for text in (
        *("64:ff9b:1::/48", "2002::/16", "2001::/23", "::/96", "2001:db8::/32", "3fff::/20"),
        *("5f00::/16", "100::/64", "192.0.0.0/24", "192.88.99.0/24", "100.64.0.0/10"),
    )
)


@dataclass(frozen=True)
class FetchLimits:
    """What one fetch may take."""

    max_bytes: int
    timeout_seconds: float = 10
    max_redirects: int = 3
    allow_private: bool = False


class ForbiddenAddressError(Exception):
    """A name that leads to an address which is not on the public internet."""


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, in whatever form it is written."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(ip, ipaddress.IPv6Address):
        if ip.ipv4_mapped or ip in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)))
        if ip.scope_id:
            return False
    if any(ip in network for network in _CLOSED if network.version == ip.version):
        return False
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


class CheckedBackend(httpcore2.AsyncNetworkBackend):
    """Connects to public addresses only: resolves, checks all, connects to the checked."""

    def __init__(self, *, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """A connection to the first address that answers. Raises ForbiddenAddressError."""
        error: Exception = httpcore2.ConnectError(f"{host} has no address")
        for address in await self._addresses(host, port):
            try:
                return await self._backend.connect_tcp(address, port, timeout=timeout)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as refused:
                error = refused
        raise error

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        """Never."""
        raise ForbiddenAddressError(path)

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    async def _addresses(self, host: str, port: int) -> list[str]:
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise httpcore2.ConnectError(f"{host} is not known") from error
        addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise ForbiddenAddressError(host)
        return addresses


async def fetch(url: str, name: str, *, limits: FetchLimits) -> bytes:
    """What the URL holds. Raises InputError that names the field, never what the answer said."""
    try:
        async with asyncio.timeout(limits.timeout_seconds):
            return await _followed(url, name, limits)
    except TimeoutError as error:
        seconds = limits.timeout_seconds
        raise InputError(f"{name}: its URL took over {seconds:g} s; send the picture") from error
    except ForbiddenAddressError as error:
        raise InputError(
            f"{name}: its URL leads to an address that is not public; send the picture itself"
        ) from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        raise InputError(f"{name}: its URL cannot be fetched; send the picture itself") from error


async def _followed(url: str, name: str, limits: FetchLimits) -> bytes:
    backend = CheckedBackend(allow_private=limits.allow_private)
    for _ in range(limits.max_redirects + 1):
        check_url(url, name)
        async with _opened(url, backend) as response:
            if response.status not in _REDIRECTS:
                return await _body(response, name, limits.max_bytes)
            url = join_url(url, _header(response, b"location")) or ""
    raise InputError(f"{name}: its URL redirects over {limits.max_redirects} times; send the last")


async def post(
    url: str, body: bytes, headers: Mapping[str, str], *, allow_private: bool = False
) -> int:
    """Send a body, with the same care; the answer's status. Raises InputError and OSError."""
    check_url(url, "webhook_url")
    backend = CheckedBackend(allow_private=allow_private)
    all_headers = [*headers.items(), ("User-Agent", f"kleinod/{__version__}")]
    try:
        async with (
            httpcore2.AsyncConnectionPool(network_backend=backend) as pool,
            pool.stream("POST", url, headers=all_headers, content=body) as response,
        ):
            return response.status
    except ForbiddenAddressError as error:
        raise InputError("webhook_url: leads to an address that is not public") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.TimeoutException) as error:
        raise OSError(str(error) or type(error).__name__) from error


def check_url(url: str, name: str) -> None:
    """Raise InputError unless it is a plain http(s) URL: no user, no odd characters."""
    parts = split_url(url)
    if parts is None or parts.scheme not in ("http", "https"):
        raise InputError(f"{name}: is no http(s) URL; give one such as https://example.com/a.png")
    if parts.username is not None or parts.password is not None:
        raise InputError(f"{name}: its URL holds a user or password; leave them out")
    if len(url) > MAX_URL_CHARACTERS:
        raise InputError(f"{name}: its URL is over {MAX_URL_CHARACTERS} characters; send a shorter")


@asynccontextmanager
async def _opened(url: str, backend: CheckedBackend) -> AsyncIterator[httpcore2.Response]:
    headers = [("User-Agent", f"kleinod/{__version__}"), ("Accept", "image/*")]
    async with (
        httpcore2.AsyncConnectionPool(network_backend=backend) as pool,
        pool.stream("GET", url, headers=headers) as response,
    ):
        yield response


async def _body(response: httpcore2.Response, name: str, max_bytes: int) -> bytes:
    if response.status != 200:
        raise InputError(f"{name}: its URL answered {response.status}; send the picture itself")
    if _header(response, b"content-encoding").lower() not in ("", "identity"):
        raise InputError(f"{name}: its URL answered compressed though unasked; send the picture")
    body = bytearray()
    async for part in response.aiter_stream():
        body += part
        if len(body) > max_bytes:
            raise InputError(
                f"{name}: its URL holds over {max_bytes} bytes, the limit; make the picture smaller"
            )
    return bytes(body)


def _header(response: httpcore2.Response, name: bytes) -> str:
    values = (value for key, value in response.headers if key.lower() == name)
    return next(values, b"").decode("latin-1")
