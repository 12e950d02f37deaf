"""A request's warnings in HTTP's words: a header of one line, and JSON values in answers."""

from collections.abc import Iterable, Mapping
from typing import Any

from PIL import Image

from kleinod.request import ResolvedRequest
from kleinod.request_warnings import RequestWarning

HEADER = "X-Kleinod-Warning"
LIST_ROUTE = "GET /v1/vocabulary"
_MAX_HEADER_CHARACTERS = 2000


def headers(warnings: Iterable[RequestWarning]) -> dict[str, str]:
    """The header, if there is something to say; letters that a header cannot hold as \\u1234."""
    line = "; ".join(map(str, warnings))
    plain = line.encode("ascii", "backslashreplace").decode()[:_MAX_HEADER_CHARACTERS]
    return {HEADER: plain} if plain else {}


def values(warnings: Iterable[RequestWarning]) -> list[dict[str, Any]]:
    """JSON values: [{"code": …, "message": …}]."""
    return [warning.as_json() for warning in warnings]


def details(
    other: Mapping[str, Any] | None, warnings: Iterable[RequestWarning]
) -> dict[str, Any] | None:
    """A task's details; of one that gives a picture its warnings, None where there is nothing."""
    if other:
        return dict(other)
    listed = values(warnings)
    return {"warnings": listed} if listed else None


def resolved(request: Mapping[str, Any], num_references: int) -> ResolvedRequest:
    """A stored job's request; of its references only the number is told."""
    return ResolvedRequest(
        prompts=(str(request["prompt"]),),
        references=(Image.new("RGB", (16, 16)),) * num_references,
        width=request["width"],
        height=request["height"],
        num_inference_steps=request["num_inference_steps"],
        guidance_scale=request["guidance_scale"],
        negative_prompt=request["negative_prompt"],
        seed=request["seed"],
        num_images=request["num_images"],
    )
