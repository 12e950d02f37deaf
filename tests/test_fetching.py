"""Pictures by URL: the public internet only, whatever names and redirects say; within limits."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpcore2
import pytest

from kleinod.errors import InputError
from kleinod.server.untrusted import fetching
from kleinod.server.untrusted.fetching import FetchLimits

PUBLIC = "93.184.215.14"
PRIVATE = [
    *("127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1"),
    *("169.254.169.254", "100.64.0.1", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254"),
    *("ff02::1", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:10.0.0.1", "::ffff:169.254.169.254"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2002:7f00:1::", "::127.0.0.1"),
    *("2001:0:7f00:1::", "2001:db8::1", "not an address", ""),
]


@pytest.mark.parametrize("address", PRIVATE)
def test_address_that_is_not_public_is_known(address: str) -> None:
    assert not fetching.is_public(address)


@pytest.mark.parametrize(
    "address", [PUBLIC, "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_address_is_known(address: str) -> None:
    assert fetching.is_public(address)


class _Site(BaseHTTPRequestHandler):
    """Paths that do what they are called."""

    def do_GET(self) -> None:
        kind, _, argument = self.path.strip("/").partition("/")
        if kind == "redirect":
            count = int(argument)
            self._answer(302, location=f"/redirect/{count - 1}" if count > 1 else "/picture")
        elif kind == "elsewhere":
            self._answer(307, location="http://metadata.test/latest/meta-data/")
        elif kind == "scheme":
            self._answer(302, location="file:///etc/passwd")
        elif kind == "missing":
            self._answer(404, b"secret words of an inner server")
        elif kind == "zipped":
            self._answer(200, b"zipped", encoding="gzip")
        elif kind == "slow":
            threading.Event().wait(30)
        else:
            self._answer(200, b"x" * int(argument or 10))

    def _answer(
        self, status: int, body: bytes = b"", location: str = "", encoding: str = ""
    ) -> None:
        self.send_response(status)
        for name, value in (("Location", location), ("Content-Encoding", encoding)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[str]:
    """Its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Site)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def fetched(url: str, **limits: Any) -> bytes:  # noqa: ANN401 - FetchLimits' fields
    """What a URL holds, private addresses allowed unless said otherwise."""
    asked = FetchLimits(**{"max_bytes": 1000, "allow_private": True} | limits)
    return asyncio.run(fetching.fetch(url, "input_image", limits=asked))


def test_picture_is_fetched_through_redirects(site: str) -> None:
    assert fetched(f"{site}/redirect/3") == b"x" * 10


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("redirect/4", "redirects over 3 times"),
        ("picture/1001", "over 1000 bytes"),
        ("missing", "answered 404"),
        ("zipped", "compressed"),
        ("scheme", "no http"),
        ("slow", "took over 0.5 s"),
    ],
)
def test_fetch_has_limits(site: str, path: str, reason: str) -> None:
    with pytest.raises(InputError, match=rf"^input_image: .*{reason}") as caught:
        # the others must meet their own limit, however busy the machine is
        fetched(f"{site}/{path}", timeout_seconds=0.5 if path == "slow" else 60)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("http://127.0.0.1/", "http://localhost/", "http://127.1/", "http://2130706433/"),
        *("http://0x7f.1/", "http://0177.0.0.1/", "http://[::1]/", "http://[::ffff:127.0.0.1]/"),
        *("http://[::ffff:7f00:1]/", "http://169.254.169.254/latest/meta-data/"),
        *("http://[fd00:ec2::254]/", "http://10.0.0.1/", "http://0/", "http://127.0.0.1.:80/"),
    ],
)
def test_private_address_is_never_asked(url: str) -> None:
    with pytest.raises(InputError, match=r"not public|cannot be fetched"):
        fetched(url, allow_private=False, timeout_seconds=60)


@pytest.mark.parametrize(
    "url",
    [
        *("http://user:word@example.com/", "http://@example.com/", "http:///a.png", "http://"),
        *("http://a b/", "http://example.com:0/", "http://example.com:99999/", "http://[::1/"),
        *("http://exa\tmple.com/", "http:\\\\example.com", "https://éxample.com/", "http://a/\n"),
        "http://example.com/" + "a" * 2083,
    ],
)
def test_odd_url_is_refused(url: str) -> None:
    with pytest.raises(InputError, match=r"^input_image: "):
        fetched(url, allow_private=False)


class _Names:
    """Stands for the resolver and the network: answers in turn, connections noted."""

    def __init__(self, patch: pytest.MonkeyPatch, answers: dict[str, list[list[str]]]) -> None:
        self.asked: list[str] = []
        self.connected: list[str] = []
        self._answers = answers
        patch.setattr(asyncio.BaseEventLoop, "getaddrinfo", self._getaddrinfo)
        patch.setattr(httpcore2.AnyIOBackend, "connect_tcp", self._connect_tcp)

    async def _getaddrinfo(self, host: str, port: int, **options: object) -> list[Any]:
        self.asked.append(host)
        addresses = self._answers[host].pop(0)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in addresses]

    async def _connect_tcp(self, host: str, port: int, **options: object) -> None:
        self.connected.append(host)
        raise httpcore2.ConnectError("refused")


def test_name_is_asked_once_and_the_checked_address_connected(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = _Names(monkeypatch, {"rebinding.test": [[PUBLIC], ["127.0.0.1"]]})
    with pytest.raises(InputError, match=r"cannot be fetched"):
        fetched("http://rebinding.test/", allow_private=False)
    assert (names.asked, names.connected) == (["rebinding.test"], [PUBLIC])


def test_one_private_address_among_several_forbids_all(monkeypatch: pytest.MonkeyPatch) -> None:
    names = _Names(monkeypatch, {"mixed.test": [[PUBLIC, "10.0.0.1"]]})
    with pytest.raises(InputError, match=r"not public"):
        fetched("http://mixed.test/", allow_private=False)
    assert names.connected == []


def test_redirect_is_checked_anew(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own = fetching.is_public
    monkeypatch.setattr(fetching, "is_public", lambda one: one == "127.0.0.1" or own(one))
    resolve = asyncio.BaseEventLoop.getaddrinfo
    asked: list[str] = []

    async def getaddrinfo(
        loop: asyncio.BaseEventLoop, host: str, port: int, **options: int
    ) -> list[Any]:
        asked.append(host)
        name = "169.254.169.254" if host == "metadata.test" else host
        return await resolve(loop, name, port, **options)

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)
    with pytest.raises(InputError, match=r"not public"):
        fetched(f"{site}/elsewhere", allow_private=False)
    assert asked == ["127.0.0.1", "metadata.test"]


def test_webhook_is_sent_with_the_same_care() -> None:
    with pytest.raises(InputError, match=r"not public"):
        asyncio.run(fetching.post("http://127.0.0.1:9/", b"{}", {}))
    with pytest.raises(OSError, match=r"."):
        asyncio.run(fetching.post("http://127.0.0.1:9/", b"{}", {}, allow_private=True))
