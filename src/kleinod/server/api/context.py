"""What every route finds: the service, the settings, whether the server is stopping."""

import re
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from kleinod.display import printable
from kleinod.server.api.problems import Problem
from kleinod.server.service import ServedModel, Service
from kleinod.server.settings import Settings

# BFL's names of klein, and the model of ours each one means if it is served
ALIASES = {
    "flux-2-klein-4b": "klein-4b",
    "flux-2-klein-9b": "klein-9b",
    "flux-2-klein-9b-preview": "klein-9b",
}


# OpenAI's own models, which clients name by habit
_OPENAI_MODEL = re.compile(r"(chatgpt-image|dall-e|gpt-image)-[a-z0-9][a-z0-9.-]{0,40}")
# which model painted, where a client may have named another one
MODEL_HEADER = "X-Kleinod-Model"


@dataclass
class Context:
    """One server's; is_stopping: whoever waits for a job leaves it to the next start."""

    service: Service
    settings: Settings
    is_stopping: bool = False


def _context(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


def _key_id(request: Request) -> str:
    key_id: str = request.state.key_id
    return key_id


ContextOf = Annotated[Context, Depends(_context)]
KeyId = Annotated[str, Depends(_key_id)]


def served(context: Context, name: str | None, *, status: int) -> ServedModel:
    """The model of a name; BFL's names mean whatever is loaded. Raises Problem."""
    models = context.service.models()
    own = {model.name: model for model in models}
    if not name:
        return models[0]
    if name in own:
        return own[name]
    if name in ALIASES:
        return own.get(ALIASES[name], models[0])
    if _OPENAI_MODEL.fullmatch(name) and _accepts_openai_models(context, len(models)):
        return models[0]
    known = ", ".join((*own, *ALIASES))
    raise Problem(
        status,
        f"The model '{printable(name, limit=100)}' is not served here; served are {known}",
        param="model",
        code="model_not_found",
    )


def aliases(context: Context) -> dict[str, ServedModel]:
    """BFL's names, and the model that answers to each."""
    own = {model.name for model in context.service.models()}
    return {name: served(context, name, status=404) for name in ALIASES if name not in own}


def _accepts_openai_models(context: Context, count: int) -> bool:
    stated = context.settings.accept_openai_models
    return count == 1 if stated is None else stated


def painted_by(name: str) -> dict[str, str]:
    """The header that names the model of an answer, in ASCII whatever its name is."""
    return {MODEL_HEADER: printable(name, limit=200).encode("ascii", "backslashreplace").decode()}


def base_url(request: Request, context: Context) -> str:
    """What the client calls this server, without a slash at the end."""
    return (context.settings.public_url or str(request.base_url)).rstrip("/")


def own_url(settings: Settings) -> str:
    """What this machine calls the server, or all do if that is configured."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    shown = f"[{host}]" if ":" in host else host
    return (settings.public_url or f"http://{shown}:{settings.port}").rstrip("/")


def check_prompt(prompt: str, context: Context) -> None:
    """Raise Problem for a prompt over the limit."""
    _check_length("prompt", prompt, context)


def check_negative_prompt(
    text: str | None, model: ServedModel, context: Context, *, status: int
) -> str:
    """What a picture shall not show, "" for nothing. Raises Problem where a model has no use."""
    if not text or not text.strip():
        return ""
    if model.info.is_distilled:
        message = (
            f"negative_prompt: {model.name} is distilled and paints without guidance, so it has "
            "no effect; leave it out, or ask a base model"
        )
        raise Problem(status, message, param="negative_prompt", code="unsupported_parameter")
    _check_length("negative_prompt", text, context)
    return text


def _check_length(name: str, text: str, context: Context) -> None:
    limit = context.settings.max_prompt_characters
    if len(text) > limit:
        message = f"{name}: {len(text)} characters are over the limit of {limit}; shorten it"
        raise Problem(422, message, param=name, code="string_too_long")


def check_size(sides: tuple[int | None, int | None], model: ServedModel, context: Context) -> None:
    """Raise Problem for a picture over this server's limit; None: automatic."""
    limit, side = context.settings.max_pixels, model.info.default_size
    width, height = sides[0] or side, sides[1] or side
    if width * height > limit:
        message = f"size: {width}x{height} is over the limit of {limit} pixels; ask for a smaller"
        raise Problem(422, message, param="size", code="over_limit")


def check_steps(steps: int | None, context: Context) -> None:
    """Raise Problem for more steps than this server makes."""
    limit = context.settings.max_steps
    if steps is not None and steps > limit:
        message = f"steps: {steps} are over the limit of {limit}; ask for fewer"
        raise Problem(422, message, param="steps", code="over_limit")
