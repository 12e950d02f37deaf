"""References as ingredients of a manifest, tried before anything is painted.

A reference's file goes into the manifest as it is, so that its own manifest is kept. A file whose
manifest C2PA's library cannot take over (cut, doubled, one bit wrong) would make the signing fail,
after the painting; so would two files whose manifests contradict each other, a picture and a
damaged copy of it. Of such a file only the pixels go in, and the ingredient's title says so.
Nothing but signing shows what can be signed: a picture of one pixel is, with a key that is thrown
away. No network.
"""

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from PIL import Image

from kleinod.images import OpenedReference
from kleinod.provenance import authority, container

_log = logging.getLogger(__name__)

SETTINGS = {
    "builder": {"thumbnail": {"enabled": False}},
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": True},
}
# what the title of an ingredient says whose file is not kept
PIXELS_ONLY = "pixels only, its own manifest is damaged"


@dataclass(frozen=True)
class Ingredient:
    """A title, and the bytes of a file that can be signed with, its format by Pillow's name."""

    title: str
    data: bytes = field(repr=False)
    format_name: str


def read_ingredients(
    references: Sequence[OpenedReference], titles: Sequence[str]
) -> tuple[Ingredient, ...]:
    """Each file as it is, so that its manifest is kept; its pixels as PNG where that cannot be.

    titles: what the manifest calls each reference.
    """
    files = [_file(one, title) for one, title in zip(references, titles, strict=True)]
    if _problem([one for one in files if one is not None]) is None:
        return tuple(
            _pixels(reference, title) if one is None else one
            for reference, title, one in zip(references, titles, files, strict=True)
        )
    kept: list[Ingredient] = []
    for reference, title, one in zip(references, titles, files, strict=True):
        if one is None:
            kept.append(_pixels(reference, title))
            continue
        problem = _problem([*kept, one])
        if problem is not None:
            _log.warning(
                "%s: its manifest is damaged, only its pixels are kept (%s)", title, problem
            )
            one = _pixels(reference, f"{title} ({PIXELS_ONLY})")
        kept.append(one)
    return tuple(kept)


def read_ingredient(
    data: bytes | None, format_name: str | None, title: str, image: Image.Image
) -> Ingredient:
    """The same of one reference; data and format_name: None if it came as no file."""
    (ingredient,) = read_ingredients([OpenedReference(image, data, format_name, title)], [title])
    return ingredient


def _file(reference: OpenedReference, title: str) -> Ingredient | None:
    """None where a reference came as no file, or as one that cannot hold a manifest."""
    if reference.data is None or reference.format_name not in container.READ_MIME:
        return None
    return Ingredient(title, reference.data, reference.format_name)


def _pixels(reference: OpenedReference, title: str) -> Ingredient:
    return Ingredient(title, _png(reference.image), "PNG")


def _problem(ingredients: Sequence[Ingredient]) -> str | None:
    """Why the library cannot sign with these files as ingredients; None: it can."""
    import c2pa

    if not ingredients:
        return None
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        definition = _definition(len(ingredients))
        with c2pa.Builder(definition, context) as builder, _trial_signer() as signer:
            for index, one in enumerate(ingredients):
                mime = container.READ_MIME[one.format_name]
                facts = {"title": one.title, "label": f"reference-{index + 1}", "format": mime}
                facts["relationship"] = "componentOf" if index else "parentOf"
                builder.add_ingredient(facts, mime, io.BytesIO(one.data))
            builder.sign(signer, "image/png", io.BytesIO(_pixel()), io.BytesIO())
    except c2pa.C2paError as error:
        return " ".join(str(error).split())[:300]
    return None


def _definition(count: int) -> dict[str, Any]:
    """A manifest that opens the first ingredient and places the others."""
    actions = [
        {
            "action": "c2pa.placed" if index else "c2pa.opened",
            "parameters": {"ingredientIds": [f"reference-{index + 1}"]},
        }
        for index in range(count)
    ]
    return {
        "claim_generator_info": [{"name": "kleinod"}],
        "format": "image/png",
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": actions}}],
    }


def _trial_signer() -> Any:  # noqa: ANN401 - c2pa is imported late
    import c2pa

    identity = _trial_identity()
    assert identity.key is not None
    certificates, key = identity.certificates.encode(), identity.key.encode()
    return c2pa.Signer.from_info(c2pa.C2paSignerInfo(identity.algorithm, certificates, key, None))


@lru_cache(maxsize=1)
def _trial_identity() -> authority.Identity:
    return authority.temporary_identity()


@lru_cache(maxsize=1)
def _pixel() -> bytes:
    return _png(Image.new("RGB", (1, 1)))


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
