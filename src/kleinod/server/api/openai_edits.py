"""An edit as OpenAI's clients send it: a form with files, or a JSON object with data URLs."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile

from kleinod.display import printable
from kleinod.server.api import context as contexts
from kleinod.server.api.context import Context
from kleinod.server.api.openai_models import EditBody, EditInputs, ImageReference
from kleinod.server.api.problems import Problem
from kleinod.server.service import ServedModel
from kleinod.server.untrusted import bodies, references
from kleinod.server.untrusted.incoming import Picture

# OpenAI's own limit of a mask is 4 MB; here a text part is a prompt at most
MAX_TEXT_PART_BYTES = 256 * 1024
MAX_TEXT_PARTS = 64
# image, image[], image[0], and the plurals that some writers make of them
_PICTURE = re.compile(r"images?(?:\[([0-9]{0,3})\])?")
_UNSUPPORTED = ("mask", "markup")
# of these any text is a value; in the others a script's null is none
_FREE_TEXTS = frozenset({"prompt", "negative_prompt", "model", "user", "safety_identifier"})
_NO_VALUES = frozenset({"", "null", "undefined"})
Source = str | UploadFile
Inputs = TypeVar("Inputs", bound=EditInputs)


async def edit_of(
    request: Request, context: Context
) -> tuple[EditInputs, ServedModel, tuple[Picture, ...]]:
    """Fields, model and pictures of an edit. Raises Problem, InputError, RequestValidationError."""
    kind = bodies.media_type(request)
    if kind == bodies.URLENCODED:
        fields = await bodies.urlencoded(request, max_fields=MAX_TEXT_PARTS)
        if fields is not None:
            return await _with_pictures(
                _validated(EditInputs, _texts(fields)), _of_form(fields), context
            )
    if kind != bodies.FORM:
        body = await bodies.json_object(request, also=f"{bodies.FORM} or ")
        edit = _validated(EditBody, body)
        return await _with_pictures(edit, _of_body(edit), context)
    parts = await bodies.form(
        request,
        max_files=context.settings.max_references + 8,
        max_fields=MAX_TEXT_PARTS,
        max_bytes=MAX_TEXT_PART_BYTES,
    )
    try:
        inputs = _validated(EditInputs, _texts(parts))
        return await _with_pictures(inputs, _of_form(parts), context)
    finally:
        await parts.close()


async def _with_pictures(
    inputs: EditInputs, sources: list[tuple[str, Source]], context: Context
) -> tuple[EditInputs, ServedModel, tuple[Picture, ...]]:
    model = contexts.served(context, inputs.model, status=404)
    if not sources:
        code = "missing_required_parameter"
        raise Problem(400, "Missing required parameter: 'image'.", param="image", code=code)
    return inputs, model, await references.of_sources(sources, context.settings)


def _validated(kind: type[Inputs], values: Mapping[str, Any]) -> Inputs:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        found = [dict(one, loc=("body", *one["loc"])) for one in error.errors(include_url=False)]
        raise RequestValidationError(found) from error


def _texts(parts: FormData) -> dict[str, str]:
    """The text parts that hold a value. Raises Problem for parts that nothing can be done with."""
    texts = {}
    for name, value in parts.multi_items():
        if _PICTURE.fullmatch(name) or _is_empty(value):
            continue
        _check_supported(name)
        if isinstance(value, UploadFile):
            shown = printable(name, limit=100)
            code = "unknown_parameter"
            raise Problem(400, f"Unknown parameter: '{shown}'.", param=shown, code=code)
        if name in _FREE_TEXTS or value not in _NO_VALUES:
            texts[name] = value
    if isinstance(parts.get("prompt"), str):
        texts["prompt"] = str(parts["prompt"])  # empty is a prompt, too
    return texts


def _is_empty(part: Source) -> bool:
    """Whether a part is what browsers and scripts send for a field that was left out."""
    if isinstance(part, UploadFile):
        return not part.size and not part.filename
    return not part


def _check_supported(name: str) -> None:
    if name in _UNSUPPORTED:
        message = f"{name}: klein cannot paint into a part of a picture yet; leave it out"
        raise Problem(400, message, param=name, code="unsupported_parameter")


def _of_form(parts: FormData) -> list[tuple[str, Source]]:
    """The pictures under any of their names, those with a number in its order."""
    found = []
    for name, value in parts.multi_items():
        match = _PICTURE.fullmatch(name)
        if match and not _is_empty(value):
            found.append((int(match[1] or 0), value))
    return [("image", value) for _, value in sorted(found, key=lambda pair: pair[0])]


def _of_body(body: EditBody) -> list[tuple[str, Source]]:
    """The pictures of a JSON object. Raises Problem."""
    if body.mask is not None:
        _check_supported("mask")
    return [
        (f"images[{index}]", _text_of(source, index)) for index, source in enumerate(body.sources())
    ]


def _text_of(source: ImageReference | str, index: int) -> str:
    if isinstance(source, str):
        return source
    name = f"images[{index}]"
    if source.file_id is not None:
        message = f"{name}.file_id: no files are kept here; send image_url with a data URL"
        raise Problem(400, message, param=f"{name}.file_id", code="unsupported_parameter")
    if source.image_url is None:
        message = f"Missing required parameter: '{name}.image_url'."
        param = f"{name}.image_url"
        raise Problem(400, message, param=param, code="missing_required_parameter")
    return source.image_url
