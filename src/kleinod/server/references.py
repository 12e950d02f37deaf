"""Reference pictures of a request, wherever they come from, made checked files."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from starlette.datastructures import UploadFile

from kleinod.errors import InputError
from kleinod.server import fetching, incoming
from kleinod.server.fetching import FetchLimits
from kleinod.server.incoming import Picture, PictureLimits
from kleinod.server.settings import Settings


async def of_texts(texts: Mapping[str, str], settings: Settings) -> tuple[Picture, ...]:
    """Pictures as base64, data URL or http(s) URL, by their fields' names. Raises InputError."""
    check_count(len(texts), settings, name="input_image")
    return await _all([_of_text(text, name, settings) for name, text in texts.items()])


async def of_sources(
    sources: Sequence[tuple[str, str | UploadFile]], settings: Settings
) -> tuple[Picture, ...]:
    """Pictures as files or as text, each with its field's name. Raises InputError."""
    check_count(len(sources), settings, name="image")
    return await _all(
        [
            _of_text(source, name, settings)
            if isinstance(source, str)
            else _of_upload(source, settings)
            for name, source in sources
        ]
    )


def check_count(count: int, settings: Settings, *, name: str) -> None:
    """Raise InputError for more pictures than may be."""
    if count > settings.max_references:
        raise InputError(
            f"{name}: {count} pictures are over the limit of {settings.max_references}"
        )


async def _all(readings: Sequence[Awaitable[Picture]]) -> tuple[Picture, ...]:
    """All at once; then the first one's error, if any."""
    found = await asyncio.gather(*readings, return_exceptions=True)
    for picture in found:
        if isinstance(picture, BaseException):
            raise picture
    return tuple(picture for picture in found if isinstance(picture, Picture))


async def _of_text(text: str, name: str, settings: Settings) -> Picture:
    limits = _limits(settings)
    if text[:8].lower().startswith(("http://", "https://")):
        data = await fetching.fetch(text, name, limits=_fetch_limits(settings))
    else:
        data = await asyncio.to_thread(
            incoming.decoded_text, text, name, max_bytes=limits.max_bytes
        )
    return await asyncio.to_thread(incoming.check, data, name, limits=limits)


async def _of_upload(file: UploadFile, settings: Settings) -> Picture:
    limits = _limits(settings)
    data = await file.read(limits.max_bytes + 1)
    return await asyncio.to_thread(incoming.check, data, "image", limits=limits)


def _limits(settings: Settings) -> PictureLimits:
    return PictureLimits(settings.max_reference_bytes, settings.max_reference_pixels)


def _fetch_limits(settings: Settings) -> FetchLimits:
    return FetchLimits(
        settings.max_reference_bytes,
        settings.fetch_timeout_seconds,
        settings.fetch_max_redirects,
        settings.allow_private_urls,
    )
