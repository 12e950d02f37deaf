"""Bodies as clients send them: JSON under other names, forms of other writers.

A body is read where it can be only one thing; otherwise the answer (415) names the type to send.
"""

import json
import re
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qsl

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.datastructures import FormData
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.types import Message

from kleinod.display import printable
from kleinod.server.api.problems import Problem

FORM = "multipart/form-data"
JSON = "application/json"
# what clients send without saying anything: nothing, curl's default, fetch's, a plain socket's
_UNSTATED = ("", "text/plain", "text/json", "application/octet-stream")
URLENCODED = "application/x-www-form-urlencoded"
# a form's words; other codecs of Python raise, or are none of text
_CHARSETS = ("", "utf-8", "utf8", "us-ascii", "ascii", "iso-8859-1", "latin-1", "latin1")
_FILENAME = re.compile(rb";\s*filename\s*=", re.IGNORECASE)
_EXTENDED_FILENAME = re.compile(rb";\s*filename\*\s*=", re.IGNORECASE)
# longer ones are made to take time, or by mistake
MAX_TYPE_CHARACTERS = 1000


class JSONRoute(APIRoute):
    """A route whose POST takes a JSON object, however its type is named. Raises Problem."""

    def get_route_handler(self) -> Callable[[Request], Awaitable[Any]]:  # type: ignore[override]
        """FastAPI's handler, behind one that reads the type."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(await _as_json(request) if request.method == "POST" else request)

        return handle


def media_type(request: Request) -> str:
    """The Content-Type without its parameters, in lower case; "" if there is none."""
    text = request.headers.get("content-type", "")
    if len(text) > MAX_TYPE_CHARACTERS:
        raise Problem(400, f"Content-Type: is over {MAX_TYPE_CHARACTERS} characters")
    return text.partition(";")[0].strip().lower()


def is_json(kind: str) -> bool:
    """Whether a media type is JSON, or one made of it."""
    return kind == JSON or (kind.startswith("application/") and kind.endswith("+json"))


async def json_object(request: Request, *, also: str = "") -> dict[str, Any]:
    """The JSON object in a body, if its type says so or says nothing. Raises Problem."""
    kind, body = media_type(request), await request.body()
    found = _object(body) if is_json(kind) or kind in (*_UNSTATED, URLENCODED) else None
    if found is not None:
        return found
    if is_json(kind):
        message = "the body is no JSON object; send one" if body else "the body is empty"
        raise Problem(400, message, code="invalid_json")
    raise _unsupported(kind, also=also)


def _unsupported(kind: str, *, also: str = "") -> Problem:
    given = f"not {printable(kind, limit=100)}" if kind else "and there is no Content-Type"
    remedy = f"send {also}Content-Type: {JSON} and a JSON object"
    message = f"this path takes {also}JSON, {given}; {remedy}"
    return Problem(415, message, code="unsupported_media_type")


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def _as_json(request: Request) -> Request:
    kind = media_type(request)
    if kind == JSON or is_json(kind):
        return request
    body = await request.body()
    if kind not in (*_UNSTATED, URLENCODED) or _object(body) is None:
        raise _unsupported(kind)
    return _again(request, body)


def _again(request: Request, body: bytes) -> Request:
    """The same request, its body unread and said to be JSON."""
    headers = [pair for pair in request.scope["headers"] if pair[0] != b"content-type"]
    scope = dict(request.scope, headers=[*headers, (b"content-type", JSON.encode())])
    is_read = False

    async def receive() -> Message:
        nonlocal is_read
        if is_read:
            return await request.receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return Request(scope, receive)


class _Parts(MultiPartParser):
    """Starlette's parser; takes a part for a file, too, if only its extended name says so."""

    def on_headers_finished(self) -> None:
        """Older urllib3 writes `filename*=UTF-8''…` alone where a name is not ASCII."""
        disposition = self._current_part.content_disposition or b""
        if _EXTENDED_FILENAME.search(disposition) and not _FILENAME.search(disposition):
            self._current_part.content_disposition = disposition + b'; filename="file"'
        super().on_headers_finished()


async def form(request: Request, *, max_files: int, max_fields: int, max_bytes: int) -> FormData:
    """The parts of a form, to be closed; a text part is of max_bytes at most. Raises Problem."""
    charset = _parameter(request.headers.get("content-type", ""), "charset")
    if charset not in _CHARSETS:
        shown = printable(charset, limit=100)
        raise Problem(400, f"Content-Type: the charset {shown} is not read; send UTF-8")
    parser = _Parts(
        request.headers,
        request.stream(),
        max_files=max_files,
        max_fields=max_fields,
        max_part_size=max_bytes,
    )
    try:
        return await parser.parse()
    except MultiPartException as error:
        raise Problem(400, f"the form cannot be read: {error.message}") from error
    except (LookupError, ValueError) as error:  # names and values in codes of their own
        raise Problem(400, "the form cannot be read; send UTF-8") from error


async def urlencoded(request: Request, *, max_fields: int) -> FormData | None:
    """The fields of a URL-encoded body; None if it is none, or JSON under curl's default type.

    Raises Problem.
    """
    body = await request.body()
    if media_type(request) != URLENCODED or _object(body) is not None or b"=" not in body:
        return None
    try:
        found = parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=max_fields)
    except ValueError as error:
        raise Problem(400, "the form cannot be read; send UTF-8, and fewer fields") from error
    # a list of these pairs is no list of pairs that may be files
    return FormData([(name, value) for name, value in found])


def _parameter(header: str, name: str) -> str:
    """A parameter of a header, in lower case; "" if it is not there."""
    for part in header.split(";")[1:]:
        key, _, value = part.partition("=")
        if key.strip().lower() == name:
            return value.strip().strip('"').lower()
    return ""
