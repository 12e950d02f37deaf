"""The receipt: everything that is needed to paint a picture again, as one JSON object.

It holds no path, no name of the machine's user and no time of day: the same request on the same
machine gives the same receipt. The watermark's payload is the receipt's own hash, so that a receipt
kept apart is found again by its picture.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from PIL import Image

from kleinod.errors import InputError
from kleinod.keywords import check_keywords

SCHEMA = "kleinod-receipt/1"
_MAX_BYTES = 4 * 1024 * 1024
Receipt = dict[str, Any]
ROBUST, REFERENCE, NO_MARK = "robust", "reference", "none"


@check_keywords
@dataclass(frozen=True)
class ProvenanceOptions:
    """What a picture says of its origin; the receipt names what was switched off.

    watermark: `robust`, `reference` (BFL's own) or `none`. c2pa: whether a signed manifest is
    written. private: leave prompts and file names out. full_hashes: hash all of the weights instead
    of samples. Raises InputError for another watermark.
    """

    watermark: str = ROBUST
    c2pa: bool = True
    private: bool = False
    full_hashes: bool = False

    def __post_init__(self) -> None:
        methods = ROBUST, REFERENCE, NO_MARK
        if self.watermark not in methods:
            raise InputError(f"watermark: {self.watermark!r} is unknown; give {', '.join(methods)}")


def pixels_sha256(image: Image.Image) -> str:
    """SHA-256 of width, height and the RGB values row by row."""
    digest = hashlib.sha256(f"{image.width}x{image.height} RGB\n".encode())
    digest.update(image.convert("RGB").tobytes())
    return digest.hexdigest()


def payload_of(receipt: Receipt) -> int:
    """The first 48 bits of the SHA-256 of a receipt's canonical form before the mark is laid."""
    core = {name: value for name, value in receipt.items() if name not in ("watermark", "picture")}
    mark = receipt["watermark"]
    # version 1 was not named
    core["watermark"] = "/".join(str(mark[key]) for key in ("method", "version") if key in mark)
    core["picture"] = receipt["picture"]["painted_sha256"]
    return int.from_bytes(hashlib.sha256(to_json(core).encode()).digest()[:6], "big")


def with_mark(receipt: Receipt, payload: int | None, marked: Image.Image) -> Receipt:
    """The receipt with the payload that was laid in (None: none) and the finished pixels' hash."""
    mark = dict(receipt["watermark"])
    if payload is not None:
        mark["payload"] = f"{payload:012x}"
    picture = receipt["picture"] | {"finished_sha256": pixels_sha256(marked)}
    return receipt | {"watermark": mark, "picture": picture}


def words_of(receipt: Receipt) -> str:
    """The prompts that it holds, one after the other; empty for a private one."""
    request = receipt["request"]
    return str(request.get("prompt", "")) + str(request.get("negative_prompt", ""))


def to_json(receipt: Receipt) -> str:
    """Canonical: sorted names, ASCII, no spaces."""
    return json.dumps(receipt, sort_keys=True, ensure_ascii=True, separators=(",", ":"))


def from_json(text: str | bytes, source: object) -> Receipt:
    """A receipt of this schema. Raises InputError; a receipt may come from anyone."""
    if len(text) > _MAX_BYTES:
        raise InputError(f"receipt: {source} is over {_MAX_BYTES} bytes; this is no receipt")
    try:
        receipt = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"receipt: {source} is no JSON ({error}); give a receipt") from error
    if not isinstance(receipt, dict) or receipt.get("schema") != SCHEMA:
        raise InputError(f"receipt: {source} is none of {SCHEMA}; paint with this version")
    for name, kind in _SHAPE.items():
        if not isinstance(_value(receipt, name), kind):
            raise InputError(f"receipt: {source} has no {name}; it is damaged")
    return receipt


_SHAPE: dict[str, type | tuple[type, ...]] = {
    "request": dict,
    "request.width": int,
    "request.height": int,
    "request.num_inference_steps": int,
    "request.guidance_scale": (int, float),
    "request.seed": int,
    "request.reference_images": list,
    "model.name": str,
    "model.files": list,
    "numbers.dtype": str,
    "device.type": str,
    "versions": dict,
    "watermark.method": str,
    "picture.painted_sha256": str,
}


def _value(receipt: Receipt, dotted: str) -> Any:  # noqa: ANN401 - a value of JSON
    value: Any = receipt
    for name in dotted.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def differences(old: Receipt, new: Receipt) -> list[str]:
    """Lines that may explain another picture: `name: then, now`, the weightiest first."""
    lines = []
    for section in ("request", "model", "numbers", "device", "kernels", "batch", "versions"):
        then, now = _flat(old.get(section), section), _flat(new.get(section), section)
        for name in sorted(then.keys() | now.keys()):
            if then.get(name) != now.get(name):
                lines.append(f"{name}: {then.get(name)} then, {now.get(name)} now")
    return lines


def _flat(value: object, name: str) -> dict[str, object]:
    """Leaves by their dotted names."""
    if isinstance(value, dict):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, list):
        items = [(str(index), item) for index, item in enumerate(value)]
    else:
        return {name: value}
    return {k: v for key, item in items for k, v in _flat(item, f"{name}.{key}").items()}
