"""What goes wrong, in the words of the API that was called.

BFL's: {"detail": "…"}, and for a wrong field {"detail": [{"loc", "msg", "type"}]}.
OpenAI's: {"error": {"message", "type", "param", "code"}}, and 400 for what is not understood.
In both, what is understood but over this server's limits is 413, 422 or 429.
"""

import json
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse as PlainJSONResponse
from starlette.exceptions import HTTPException

from kleinod.errors import InputError
from kleinod.server.api.messages import client_message
from kleinod.server.job_queue.job import Refused, Unavailable

OPENAI_PATHS = ("/v1/images", "/v1/models")


class JSONResponse(PlainJSONResponse):
    """JSON in ASCII: a message may quote half a letter, which UTF-8 cannot hold."""

    def render(self, content: object) -> bytes:
        """The body."""
        return json.dumps(content, separators=(",", ":")).encode()


class Problem(Exception):
    """An answer that is not the asked one. param: the field that is at fault; code: in one word."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})


class TooLarge(HTTPException):
    """A body over the limit: passes through everything that reads a body, up to BodyLimit."""

    def __init__(self) -> None:
        super().__init__(413, "too large")


def of_input(error: InputError, status: int = 422) -> Problem:
    """The problem of a message `field: value …; remedy`."""
    message = client_message(str(error))
    field = message.partition(":")[0]
    is_field = field.replace("_", "").isalnum() and field.islower()
    return Problem(status, message, param=field if is_field else None, code="invalid_value")


def of_refusal(error: Refused) -> Problem:
    """429, and when to ask again."""
    headers = {"Retry-After": str(error.retry_after_seconds)}
    return Problem(429, str(error), code="rate_limit_exceeded", headers=headers)


def answer(path: str, problem: Problem) -> JSONResponse:
    """The problem as the API at the path words it."""
    is_openai = path.startswith(OPENAI_PATHS)
    body = _openai_body(problem) if is_openai else _bfl_body(problem)
    return JSONResponse(body, problem.status, headers=problem.headers)


def _bfl_body(problem: Problem) -> dict[str, Any]:
    if problem.status != 422:
        return {"detail": problem.message}
    place = ["body", *([problem.param] if problem.param else [])]
    return {"detail": [_entry(place, problem.message, problem.code or "value_error")]}


def _entry(place: object, message: object, kind: object) -> dict[str, Any]:
    return {"loc": place, "msg": message, "type": kind}


def openai_error(problem: Problem) -> dict[str, Any]:
    """What stands under `error`, in an answer and in a stream."""
    kinds = {429: "rate_limit_error", 401: "authentication_error", 403: "permission_error"}
    usual = "server_error" if problem.status >= 500 else "invalid_request_error"
    kind = "image_generation_user_error" if problem.code == "moderation_blocked" else None
    return {
        "message": problem.message,
        "type": kind or kinds.get(problem.status, usual),
        "param": problem.param,
        "code": problem.code,
    }


def _openai_body(problem: Problem) -> dict[str, Any]:
    return {"error": openai_error(problem)}


def install(app: FastAPI) -> None:
    """Have every error answered in these words."""
    handlers: dict[type[Exception], Any] = {
        RequestValidationError: _on_validation,
        Problem: _on_problem,
        InputError: _on_input,
        Refused: _on_refused,
        Unavailable: _on_unavailable,
        TooLarge: _on_too_large,
        HTTPException: _on_http,
    }
    for kind, handler in handlers.items():
        app.add_exception_handler(kind, handler)


async def _on_problem(request: Request, error: Problem) -> JSONResponse:
    return answer(request.scope["path"], error)


async def _on_input(request: Request, error: InputError) -> JSONResponse:
    return answer(request.scope["path"], of_input(error))


async def _on_refused(request: Request, error: Refused) -> JSONResponse:
    return answer(request.scope["path"], of_refusal(error))


async def _on_unavailable(request: Request, error: Unavailable) -> JSONResponse:
    problem = Problem(503, str(error), headers={"Retry-After": "5"})
    return answer(request.scope["path"], problem)


async def _on_http(request: Request, error: HTTPException) -> JSONResponse:
    problem = Problem(error.status_code, str(error.detail), headers=error.headers)
    return answer(request.scope["path"], problem)


async def _on_too_large(request: Request, error: TooLarge) -> JSONResponse:
    raise error


async def _on_validation(request: Request, error: RequestValidationError) -> JSONResponse:
    """loc, msg and type only: the input may be megabytes of picture, or a prompt."""
    path, found = request.scope["path"], error.errors()
    if not path.startswith(OPENAI_PATHS):
        entries = [_entry(list(e["loc"]), e["msg"], e["type"]) for e in found[:20]]
        return JSONResponse({"detail": entries}, 422)
    first = found[0]
    names = [str(part) for part in first["loc"] if part not in ("body", "query", "header")]
    is_json = first["type"] == "json_invalid"
    param = None if is_json or not names else ".".join(names)[:100]
    return answer(path, _understood(first, param))


def _understood(first: Mapping[str, Any], param: str | None) -> Problem:
    """The first of pydantic's findings as OpenAI words it."""
    kind = first["type"]
    if kind == "extra_forbidden":
        return Problem(400, f"Unknown parameter: '{param}'.", param=param, code="unknown_parameter")
    if kind == "missing" and not param:
        return Problem(400, "the body is empty; send a JSON object", code="invalid_json")
    if kind == "missing":
        message = f"Missing required parameter: '{param}'."
        return Problem(400, message, param=param, code="missing_required_parameter")
    if kind == "json_invalid":
        return Problem(400, "the body is no JSON; send a JSON object", code="invalid_json")
    status = 422 if kind == "over_limit" else 400
    message = f"Invalid value for '{param or 'body'}': {first['msg']}."
    return Problem(status, message, param=param, code="invalid_value")
