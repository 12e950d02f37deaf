"""Reference pictures of a request, wherever they come from, made checked files."""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence

from starlette.datastructures import UploadFile

from kleinod.errors import InputError
from kleinod.server.settings import Settings
from kleinod.server.untrusted import fetching, incoming
from kleinod.server.untrusted.fetching import FetchLimits
from kleinod.server.untrusted.incoming import Picture, PictureLimits


async def of_texts(texts: Mapping[str, str], settings: Settings) -> tuple[Picture, ...]:
    """Pictures as base64, data URL or http(s) URL, by their fields' names.

    Raises InputError, Refused.
    """
    check_count(len(texts), settings, name="input_image")
    readings = [_of_text(text, name, settings) for name, text in texts.items()]
    return await _checked(list(texts), await _all(readings), settings)


async def of_sources(
    sources: Sequence[tuple[str, str | UploadFile]], settings: Settings
) -> tuple[Picture, ...]:
    """Pictures as files or as text, each with its field's name. Raises InputError, Refused."""
    check_count(len(sources), settings, name="image")
    readings = [
        _of_text(source, name, settings)
        if isinstance(source, str)
        else source.read(settings.max_reference_bytes + 1)
        for name, source in sources
    ]
    return await _checked([name for name, _ in sources], await _all(readings), settings)


async def _checked(
    names: Sequence[str], files: Sequence[bytes], settings: Settings
) -> tuple[Picture, ...]:
    named = list(zip(names, files, strict=True))
    return await asyncio.to_thread(incoming.check_all, named, limits=_limits(settings))


def check_count(count: int, settings: Settings, *, name: str) -> None:
    """Raise InputError for more pictures than may be."""
    if count > settings.max_references:
        raise InputError(
            f"{name}: {count} pictures are over the limit of {settings.max_references}"
        )


async def _all(readings: Sequence[Awaitable[bytes]]) -> list[bytes]:
    """All at once; then the first one's error, if any."""
    results = await asyncio.gather(*readings, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if isinstance(result, bytes)]


async def _of_text(text: str, name: str, settings: Settings) -> bytes:
    if text[:8].lower().startswith(("http://", "https://")):
        return await fetching.fetch(text, name, limits=_fetch_limits(settings))
    most = settings.max_reference_bytes
    return await asyncio.to_thread(incoming.decoded_text, text, name, max_bytes=most)


def _limits(settings: Settings) -> PictureLimits:
    return PictureLimits(
        settings.max_reference_bytes,
        settings.max_reference_pixels,
        settings.max_request_reference_pixels,
        settings.max_decoding_pixels,
    )


def _fetch_limits(settings: Settings) -> FetchLimits:
    return FetchLimits(
        settings.max_reference_bytes,
        settings.fetch_timeout_seconds,
        settings.fetch_max_redirects,
        settings.allow_private_urls,
    )
