"""The C2PA manifest: written last, over the finished file's bytes; read and judged.

A picture made of words says `c2pa.created`; one made of references says that the first was opened,
the others placed and all edited, and holds each reference as an ingredient with its own manifest.
The receipt is an assertion of its own. No thumbnails, no network.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image

from kleinod.errors import InputError, KleinodError, SigningError
from kleinod.provenance import frame
from kleinod.provenance import receipt as receipts
from kleinod.provenance.authority import Identity, trusted
from kleinod.provenance.container import MIME, READ_MIME
from kleinod.provenance.ingredients import SETTINGS, Ingredient
from kleinod.provenance.receipt import Receipt
from kleinod.version import __version__

GENERATOR = "kleinod"
RECEIPT_LABEL = "io.kleinod.receipt"
SOURCE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"


@lru_cache
def check_identity(identity: Identity) -> None:
    """Sign a tiny picture, so that a certificate or a command that cannot sign is found early.

    Once in a process for each identity. Raises InputError.
    """
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG")
    created = {"action": "c2pa.created", "digitalSourceType": SOURCE}
    definition = {
        "claim_generator_info": [{"name": GENERATOR, "version": __version__}],
        "format": MIME["PNG"],
        "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [created]}}],
    }
    try:
        _sign(definition, buffer.getvalue(), "PNG", references=(), identity=identity)
    except SigningError as error:
        raise InputError(
            f"c2pa: the configured signer cannot sign ({error}); check KLEINOD_C2PA_CERTIFICATES "
            "and its key or command, or switch c2pa off"
        ) from error


def signed(
    data: bytes,
    format_name: str,
    *,
    receipt: Receipt,
    references: Sequence[Ingredient],
    identity: Identity,
) -> bytes:
    """The picture file with a manifest that names the model, its references and its receipt."""

    definition = {
        "claim_generator_info": [{"name": GENERATOR, "version": __version__}],
        "format": MIME[format_name],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": _actions(receipt, references)}},
            # as text: c2pa makes a string of bytes of a list of small numbers
            {"label": RECEIPT_LABEL, "data": _receipt_data(receipt, data, format_name)},
        ],
    }
    return _sign(definition, data, format_name, references=references, identity=identity)


def _sign(
    definition: dict[str, Any],
    data: bytes,
    format_name: str,
    *,
    references: Sequence[Ingredient],
    identity: Identity,
) -> bytes:
    """Raises SigningError."""
    import c2pa

    out = io.BytesIO()
    try:
        context = c2pa.Context(c2pa.Settings.from_dict(SETTINGS))
        with c2pa.Builder(definition, context) as builder, _signer(identity) as signer:
            for index, reference in enumerate(references):
                mime, stream = READ_MIME[reference.format_name], io.BytesIO(reference.data)
                facts = {"title": reference.title, "label": _label(index), "format": mime}
                facts["relationship"] = "componentOf" if index else "parentOf"
                builder.add_ingredient(facts, mime, stream)
            builder.sign(signer, MIME[format_name], io.BytesIO(data), out)
    except (c2pa.C2paError, KleinodError) as error:
        # its messages have several lines
        reason = " ".join(str(error).split())
        raise SigningError(f"c2pa: signing failed ({reason})") from error
    return out.getvalue()


def _receipt_data(receipt: Receipt, data: bytes, format_name: str) -> dict[str, str]:
    """As text, and the brands of an AVIF, which C2PA's hash leaves out."""
    brands = {"brands": frame.first_box(data).hex()} if format_name == "AVIF" else {}
    return {"json": receipts.to_json(receipt)} | brands


def _actions(receipt: Receipt, references: Sequence[Ingredient]) -> list[dict[str, Any]]:
    model = receipt["model"]
    made = {
        "softwareAgent": {"name": "kleinod", "version": __version__},
        "digitalSourceType": SOURCE,
        "description": f"Painted by the model {model['name']} ({model['license']}).",
    }
    if not references:
        return [{"action": "c2pa.created", **made}]
    uses = [
        {
            "action": "c2pa.placed" if index else "c2pa.opened",
            "parameters": {"ingredientIds": [_label(index)]},
        }
        for index in range(len(references))
    ]
    return [*uses, {"action": "c2pa.edited", **made}]


def _label(index: int) -> str:
    return f"reference-{index + 1}"


def _signer(identity: Identity) -> Any:  # noqa: ANN401 - c2pa is imported late
    import c2pa

    if identity.sign is not None:
        algorithm = c2pa.C2paSigningAlg[identity.algorithm.upper()]
        return c2pa.Signer.from_callback(identity.sign, algorithm, identity.certificates)
    assert identity.key is not None
    certificates, key = identity.certificates.encode(), identity.key.encode()
    info = c2pa.C2paSignerInfo(identity.algorithm, certificates, key, None)  # no time stamp server
    return c2pa.Signer.from_info(info)


@dataclass(frozen=True)
class Verdict:
    """What the manifest is worth: state is `none`, `invalid`, `valid` or `trusted`."""

    state: str
    problems: tuple[str, ...] = ()
    signer: str = ""
    generator: str = ""
    actions: tuple[str, ...] = ()
    ingredients: tuple[str, ...] = ()
    receipt: Receipt | None = None
    brands: str = ""


def judged(data: bytes, format_name: str) -> Verdict:
    """Read and check the manifest in a picture file's bytes."""
    import c2pa

    anchors = trusted()
    settings = SETTINGS | ({"trust": {"trust_anchors": anchors}} if anchors else {})
    context = c2pa.Context(c2pa.Settings.from_dict(settings))
    try:
        with c2pa.Reader(READ_MIME[format_name], io.BytesIO(data), context=context) as reader:
            report = json.loads(reader.json())
            detail = json.loads(reader.detailed_json()) if len(report["manifests"]) > 1 else {}
    except c2pa.C2paError.ManifestNotFound:
        return Verdict("none")
    except c2pa.C2paError as error:
        return Verdict("invalid", (f"the manifest cannot be read: {error}",))
    verdict = _verdict(report)
    is_ours = verdict.generator.split(" ")[0] == GENERATOR and format_name in MIME
    if verdict.state == "invalid" or not is_ours:
        return verdict
    brands = frame.first_box(data).hex() if format_name == "AVIF" else ""
    is_whole = frame.is_as_written(data, format_name, hashes=_hashes_of_references(detail))
    if verdict.brands != brands or not is_whole:
        return Verdict("invalid", ("bytes around the signature were changed",))
    return verdict


def _hashes_of_references(detail: dict[str, Any]) -> dict[str, str]:
    """Names of the references' manifests, and the hashes that kleinod's manifests state of them.

    The library checks what they say, but not each byte of them.
    """
    stated = {}
    for manifest in detail.get("manifests", {}).values():
        info = manifest.get("claim", {}).get("claim_generator_info") or {}
        if (info[0] if isinstance(info, list) else info).get("name") != GENERATOR:
            continue  # others may have hashed what was written otherwise then
        for assertion in manifest.get("assertion_store", {}).values():
            link = assertion.get("activeManifest") if isinstance(assertion, dict) else None
            if isinstance(link, dict) and link.get("alg") == "sha256":
                stated[str(link.get("url")).rpartition("/")[2]] = str(link.get("hash"))
    return stated


def _verdict(report: dict[str, Any]) -> Verdict:
    active = report["manifests"].get(report.get("active_manifest"), {})
    failures = report.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
    codes = tuple(
        dict.fromkeys(f["code"] for f in failures if f["code"] != "signingCredential.untrusted")
    )
    state = str(report.get("validation_state", "Invalid")).lower()
    if codes or state not in ("valid", "trusted"):
        return Verdict("invalid", codes or ("unknown fault",))
    assertions = {item["label"]: item["data"] for item in active.get("assertions", [])}
    actions = assertions.get("c2pa.actions.v2", {}).get("actions", [])
    info = (active.get("claim_generator_info") or [{}])[0]
    signature = active.get("signature_info", {})
    return Verdict(
        state,
        signer=signature.get("common_name") or signature.get("issuer", ""),
        generator=f"{info.get('name', '')} {info.get('version', '')}".strip(),
        actions=tuple(action["action"] for action in actions),
        ingredients=tuple(map(_ingredient, active.get("ingredients", []))),
        receipt=_receipt(assertions.get(RECEIPT_LABEL)),
        brands=_text(assertions.get(RECEIPT_LABEL), "brands"),
    )


def _receipt(value: object) -> Receipt | None:
    """An assertion that is a receipt; somebody else's signer may have written anything there."""
    try:
        return receipts.from_json(_text(value, "json") or "null", "the manifest")
    except InputError:
        return None


def _text(value: object, name: str) -> str:
    text = value.get(name) if isinstance(value, dict) else None
    return text if isinstance(text, str) else ""


def _ingredient(ingredient: dict[str, Any]) -> str:
    """Its title, and whether it brought a manifest of its own."""
    own = (
        "with a manifest of its own" if ingredient.get("active_manifest") else "without a manifest"
    )
    return f"{ingredient.get('title', 'untitled')} ({own})"
