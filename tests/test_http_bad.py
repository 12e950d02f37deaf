"""What nobody should send: always a 4xx, never a 5xx, and the process lives.

A corpus that code makes, and schemathesis over the server's own OpenAPI document.
"""

import json
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from http_pictures import as_base64, bomb, odd_modes, picture, png, polyglots, text_bomb
from http_server import Server, serving

KLEIN, PAINT, EDIT = "/v1/flux-2-klein-4b", "/v1/images/generations", "/v1/images/edits"
JSON = {"Content-Type": "application/json"}


@dataclass(frozen=True)
class Bad:
    """One request that must be refused."""

    what: str
    path: str
    options: dict[str, Any] = field(repr=False)
    method: str = "POST"


def bad_pictures() -> Iterator[tuple[str, bytes]]:
    """Files that are no whole, ordinary picture."""
    yield from polyglots().items()
    yield from odd_modes().items()
    yield from (("bomb", bomb()), ("text bomb", text_bomb()), ("empty", b""), ("zero", bytes(999)))
    yield ("huge header", png(2**31 - 1, 2**31 - 1))
    yield ("no pixels", png(96, 96))
    yield ("no width", png(0, 96))
    yield ("too small", picture(size=(63, 63)))
    yield ("too long", picture(size=(1024, 64)))
    chance = random.Random(6)
    for format in ("PNG", "JPEG", "WEBP", "GIF", "AVIF"):
        whole = picture(format=format)
        for part in (0.02, 0.1, 0.3, 0.5, 0.7, 0.9):
            yield (f"{format} cut at {part}", whole[: int(len(whole) * part)])
        yield (f"{format} behind a newline", b"\n" + whole)
        yield (f"{format} with another head", b"GIF88a" + whole[6:])
        yield (f"{format} of noise", whole[:12] + chance.randbytes(400))


def bad_fields() -> Iterator[tuple[str, Any]]:
    """Values that BFL's fields cannot have."""
    numbers = ("", "a", [], {}, [1], 1.5, -1, 10**30, "1e3", "\0")
    for name in ("width", "height", "seed", "steps", "safety_tolerance"):
        yield from ((name, value) for value in numbers if (name, value) != ("seed", -1))
    for name in ("prompt", "input_image", "input_image_8", "webhook_url", "webhook_secret"):
        yield from ((name, value) for value in ([], {}, 5, False))
    for name in ("output_format", "aspect_ratio"):
        yield from ((name, value) for value in ("", "tiff", 5, [], "\ud800", "1:0"))
    yield from (("guidance", value) for value in (0, -1, 1e9, "a", []))
    yield from (("prompt", value) for value in (None, "a" * 40_000, "\ud800", "\udfff fox"))


def bad_bodies() -> Iterator[tuple[str, bytes, dict[str, str]]]:
    """Bodies that are no JSON object, or not said to be one."""
    deep = b"[" * 100_000
    texts = (
        *(b"", b"{", b"[]", b"null", b"1", b'"fox"', b"{]", b'{"prompt"}', b"{'prompt': 'a'}"),
        *(b'{"prompt": NaN}', b'{"prompt": "a", "seed": Infinity}', b'\xff\xfe{"prompt": "a"}'),
        *(b'{"prompt": "\xc3\x28"}', deep, b'{"prompt":' + deep, b"\x00", b'{"prompt": "a"} x'),
        b'{"prompt": "a", "seed": ' + b"9" * 10_000 + b"}",
        b'{"prompt": "a", "seed": 1e999}',
    )
    yield from ((f"body {text[:30]!r}", text, JSON) for text in texts)
    for kind in ("application/xml", "multipart/form-data", "image/png", "text/html", "x" * 2000):
        yield (f"as {kind:.40}", b'{"prompt": "a fox"}', {"Content-Type": kind})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/octet-stream"):
        yield (f"no JSON as {kind}", b"prompt=a+fox", {"Content-Type": kind})


def bad_forms() -> Iterator[tuple[str, bytes, str]]:
    """Bodies that are no whole form, or no edit."""
    kind = "multipart/form-data; boundary=b"
    head = b'--b\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    prompt = b'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\na\r\n'
    yield ("no boundary", head + b"a\r\n--b--\r\n", "multipart/form-data")
    yield ("other boundary", prompt + head + b"a\r\n--b--\r\n", kind.replace("=b", "=c"))
    yield ("no end", prompt + head + picture(), kind)
    yield ("no disposition", b"--b\r\n\r\na\r\n--b--\r\n", kind)
    yield ("no name", b"--b\r\nContent-Disposition: form-data\r\n\r\na\r\n--b--\r\n", kind)
    yield ("no body", b"", kind)
    yield ("text as picture", prompt + prompt.replace(b"prompt", b"image") + b"--b--\r\n", kind)
    yield ("many fields", prompt * 100 + b"--b--\r\n", kind)
    yield ("many files", (head + b"a\r\n") * 100 + prompt + b"--b--\r\n", kind)
    yield ("large text", prompt.replace(b"\r\na\r\n", b"\r\n" + b"a" * 2**20 + b"\r\n"), kind)
    for charset in ("undefined", "punycode", "idna", "hex", "utf-7", "\xff", "../x", "a" * 900):
        odd = prompt.replace(b"\r\na\r\n", b"\r\n\xffa-\r\n")
        yield (f"charset {charset:.20}", odd + b"--b--\r\n", f"{kind}; charset={charset}")
    for name in (b"n*=punycode''x", b"name*0=a", b'name="a', b"name=\xff\xfe", b"name*=idna''%ff"):
        odd = prompt.replace(b'name="prompt"', name)
        yield (f"disposition {name!r}", odd + b"--b--\r\n", kind)
    yield ("noise", random.Random(1).randbytes(5000), kind)
    yield ("json", b'{"prompt": "a"}', "application/json")


def corpus() -> list[Bad]:
    """All of them."""
    made = []
    for what, data in bad_pictures():
        body = {"prompt": "a fox", "input_image": as_base64(data)}
        made.append(Bad(what, KLEIN, {"json": body}))
        files = {"image": ("a.png", data)}
        made.append(Bad(what, EDIT, {"data": {"prompt": "a fox"}, "files": files}))
    for name, value in bad_fields():
        content = json.dumps({"prompt": "a fox"} | {name: value}).encode()
        made.append(Bad(f"{name}={value!r:.40}", KLEIN, {"content": content, "headers": JSON}))
    for what, data, headers in bad_bodies():
        for path in (KLEIN, PAINT):
            made.append(Bad(what, path, {"content": data, "headers": headers}))
    for what, data, kind in bad_forms():
        headers = {"Content-Type": kind.encode("latin-1")}
        made.append(Bad(what, EDIT, {"content": data, "headers": headers}))
    for path in ("/v1/nothing", "/v1/a/b", "/v1/%00", "/v1/images/", "/v1/jobs/x/y", "/nothing"):
        made.append(Bad("no such path", path, {"json": {"prompt": "a"}}))
    for path in (
        "/pictures/../../etc/passwd",
        "/pictures/%2e%2e/x",
        "/page/../app.py",
        "/v1/get_result",
    ):
        made.append(Bad("no such file", path, {}, method="GET"))
    return made


@pytest.mark.slow
def test_bad_bodies_and_pictures_are_refused(server: Server) -> None:
    requests = corpus()
    assert len(requests) >= 200
    wrong = []
    with server.client() as client:
        for bad in requests:
            answer = client.request(bad.method, bad.path, **bad.options)
            is_told = answer.json().keys() in ({"detail"}, {"error"})
            if not 400 <= answer.status_code < 500 or not is_told:
                wrong.append(f"{bad}: {answer.status_code} {answer.text[:200]}")
        assert wrong == []
        assert client.get("/readyz").json() == {"status": "ok"}
    assert server.is_alive()


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"NONSENSE\r\n\r\n",
            b"GET / HTTP/9.9\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\x16\x03\x01\r\n\r\n",
        ),
        b"POST /v1/mini HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/mini HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Key: \x00\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n",
        b"GET /%ff%fe?id=%ff HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_broken_http_is_refused(server: Server, text: bytes) -> None:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(text)
        answer = connection.recv(1000)
    assert answer.startswith(b"HTTP/1.1 4"), answer
    assert server.is_alive()


def test_half_a_request_holds_nobody_up(server: Server) -> None:
    address = urlsplit(server.url)
    head = b"POST /v1/mini HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(head + b"Content-Length: 100\r\n\r\n{")
        assert httpx2.get(f"{server.url}/healthz", trust_env=False).status_code == 200


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path: Path) -> None:
    limits = {"max_steps": 2, "max_images": 2, "max_pixels": 16384, "max_queue": 64}
    with serving(tmp_path, **limits) as small:
        command = [
            *(str(Path(sys.executable).with_name("schemathesis")), "run"),
            *(f"{small.url}/openapi.json", "--max-examples", "12", "--seed", "6", "--workers", "1"),
            *("--request-timeout", "30", "--max-time", "35", "--generation-deterministic"),
            *("--suppress-health-check", "all", "--no-color"),
            # sizes that are too large together, pictures that are too small: no schema says that;
            # Starlette's answer to a wrong method names the first path's methods only
            *("--exclude-checks", "positive_data_acceptance,allow_header_conformance"),
        ]
        run = subprocess.run(command, capture_output=True, text=True, timeout=150, cwd=tmp_path)
        assert run.returncode == 0, run.stdout[-6000:] + run.stderr[-2000:]
        assert small.is_alive()
