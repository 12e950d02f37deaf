"""What every route finds: the service, the settings, whether the server is stopping."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from kleinod.server.problems import Problem
from kleinod.server.service import ServedModel, Service
from kleinod.server.settings import Settings

# BFL's names of klein, and the model of ours each one means if it is served
ALIASES = {
    "flux-2-klein-4b": "klein-4b",
    "flux-2-klein-9b": "klein-9b",
    "flux-2-klein-9b-preview": "klein-9b",
}


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
    if name is None:
        return models[0]
    if name in own:
        return own[name]
    if name in ALIASES:
        return own.get(ALIASES[name], models[0])
    known = ", ".join((*own, *ALIASES))
    raise Problem(
        status,
        f"The model '{name[:100]}' is not served here; served are {known}",
        param="model",
        code="model_not_found",
    )


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
    limit = context.settings.max_prompt_characters
    if len(prompt) > limit:
        message = f"prompt: {len(prompt)} characters are over the limit of {limit}; shorten it"
        raise Problem(422, message, param="prompt", code="string_too_long")


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
