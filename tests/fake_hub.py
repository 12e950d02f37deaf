"""The few answers of the hub that a pull asks for, from a folder of files, on the loopback."""

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

REVISION = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """Files of one repository, how it answers, and what it was asked."""

    repository: str
    files: dict[str, bytes]
    card: dict[str, Any] = field(default_factory=dict)
    status: int = 200  # of every answer
    error_code: str = ""
    is_gated: bool = False
    breaks_after: list[int] = field(default_factory=list)  # bytes sent before a break, in turn
    damage: bytes = b""  # what is sent instead of the last bytes
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    url: str = ""

    def fetched(self, name: str) -> list[str]:
        """The Range of each download of a file."""
        return [r for method, path, r in self.requests if method == "GET" and path.endswith(name)]


@contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    """Serve it."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Stay silent."""

        def do_HEAD(self) -> None:
            _answer(self, hub)

        def do_GET(self) -> None:
            _answer(self, hub)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _answer(handler: BaseHTTPRequestHandler, hub: FakeHub) -> None:
    path = handler.path.split("?")[0]
    hub.requests.append((handler.command, path, handler.headers.get("Range", "")))
    if hub.status != 200:
        _send(handler, b"", hub.status, {"X-Error-Code": hub.error_code} if hub.error_code else {})
    elif path.startswith("/api/models/"):
        _send_api(handler, hub, path.removeprefix("/api/models/"))
    else:
        _send_file(handler, hub, path)


def _send_api(handler: BaseHTTPRequestHandler, hub: FakeHub, path: str) -> None:
    if not path.startswith(hub.repository):
        _send(handler, b"", 401, {"X-Error-Code": "RepoNotFound"})
    elif "/tree/" in path:
        tree = [{"type": "file", "path": n, **_described(d)} for n, d in hub.files.items()]
        _send(handler, json.dumps(tree).encode())
    else:
        siblings = [{"rfilename": n, **_described(d)} for n, d in hub.files.items()]
        info = {
            "id": hub.repository, "sha": REVISION, "siblings": siblings, "cardData": hub.card,
            "private": False, "gated": "auto" if hub.is_gated else False, "tags": [],
        }  # fmt: skip
        _send(handler, json.dumps(info).encode())


def _described(data: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    lfs = {"oid": digest, "sha256": digest, "size": len(data), "pointerSize": 130}
    return {"size": len(data), "oid": digest[:40], "blobId": digest[:40], "lfs": lfs}


def _send_file(handler: BaseHTTPRequestHandler, hub: FakeHub, path: str) -> None:
    match = re.fullmatch(rf"/{re.escape(hub.repository)}/resolve/\w+/(.+)", path)
    data = hub.files.get(match[1]) if match else None
    if data is None:
        _send(handler, b"", 404, {"X-Error-Code": "EntryNotFound"})
        return
    if hub.is_gated:
        _send(handler, b"", 401, {"X-Error-Code": "GatedRepo"})
        return
    headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": REVISION}
    if hub.damage:
        data = data[: -len(hub.damage)] + hub.damage
    start = int((re.findall(r"bytes=(\d+)-", handler.headers.get("Range", "")) or [0])[0])
    status = 206 if start else 200
    if start:
        headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    is_large = len(data) > 1_000_000 and handler.command == "GET"
    limit = hub.breaks_after.pop(0) if is_large and hub.breaks_after else None
    _send(handler, data[start:], status, headers, limit)


def _send(
    handler: BaseHTTPRequestHandler,
    data: bytes,
    status: int = 200,
    headers: dict[str, str] | None = None,
    limit: int | None = None,
) -> None:
    """Answer; after `limit` bytes the connection breaks."""
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(data if limit is None else data[:limit])
    handler.close_connection = True
