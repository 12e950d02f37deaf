"""Log lines for people or programs, each with its request's id; prompts only if asked for.

Also the headers that every answer gets. A path is logged, a query never: it may hold a signature.
"""

import json
import logging
import re
import sys
import time
import uuid
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kleinod.display import printable
from kleinod.server.api.problems import Problem, answer

request_id: ContextVar[str] = ContextVar("request_id", default="")
_SANE_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)
_QUIET_PATHS = ("/healthz", "/readyz", "/metrics")
_OWN_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message"}
# "self" alone: no script, style, picture or connection from or to anywhere else
SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MAX_CHARACTERS = 4000
CRASHED = "something went wrong here; the server's log says what"
_log = logging.getLogger("kleinod.http")


@dataclass(frozen=True)
class Observed:
    """Gives each request its id and each answer its headers, and logs one line when it ended."""

    app: ASGIApp

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        own = given if _SANE_ID.fullmatch(given) else uuid.uuid4().hex
        token = request_id.set(own)
        start, status = time.perf_counter(), 0

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-Id"] = own
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self.app(scope, receive, marked)
        except Exception:  # the edge: one request's crash is one answer and one line
            _log.exception("%s %s failed", scope["method"], scope["path"])
            if not status:
                await answer(scope["path"], Problem(500, CRASHED))(scope, receive, marked)
        finally:
            _line(scope, status, time.perf_counter() - start)
            request_id.reset(token)


def _line(scope: Scope, status: int, seconds: float) -> None:
    """One line for a request; status 0: the client left before it was answered."""
    path, method = scope["path"], scope["method"]
    facts = {
        "method": method,
        "path": path,
        "status": status,
        "seconds": round(seconds, 4),
        "key": scope.get("state", {}).get("key_id", ""),
        "client": (scope.get("client") or ("", 0))[0],
    }
    level = logging.DEBUG if path in _QUIET_PATHS and status < 500 else logging.INFO
    _log.log(level, "%s %s %s %.3f s", method, path, status, seconds, extra=facts)


class JsonLines(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request_id, and what is extra."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        facts = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        if request_id.get():
            facts["request_id"] = request_id.get()
        extra = {name: value for name, value in vars(record).items() if name not in _OWN_FIELDS}
        if record.exc_info:
            extra["exception"] = self.formatException(record.exc_info)
        return json.dumps(facts | extra, default=str)


class TextLines(logging.Formatter):
    """Time, level, message and the request's id, for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line; a traceback follows it, indented, so that nothing in it looks like a line."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%H:%M:%S")
        mark = f"  [{request_id.get()[:8]}]" if request_id.get() else ""
        line = f"{moment} {record.levelname.lower()} {_message(record)}{mark}"
        if not record.exc_info:
            return line
        trace = self.formatException(record.exc_info).splitlines()
        return "\n".join((line, *(f"    {printable(one)}" for one in trace)))


def _message(record: logging.LogRecord) -> str:
    """What is logged, on one line: paths, prompts and errors hold what strangers sent."""
    return printable(record.getMessage(), limit=_MAX_CHARACTERS)


def install(log_format: str, stream: TextIO | None = None) -> None:
    """Have everything that is logged written in one form, to stderr."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonLines() if log_format == "json" else TextLines())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("kleinod").setLevel(logging.INFO)
    logging.captureWarnings(capture=True)
