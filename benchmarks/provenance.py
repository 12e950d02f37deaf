"""What filters, watermark, receipt, signature and audit log add to a 1024 x 1024 picture.

    python benchmarks/provenance.py

Milliseconds of wall time, least of 7, with a new certificate authority in a temporary folder. Needs
the extra "test" (scikit-image).
"""

import io
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import attacks
from test_manifest import RECEIPT

from kleinod.audit import audit_log
from kleinod.provenance import container, manifest
from kleinod.provenance.receipt import ProvenanceOptions
from kleinod.safety import Guard, Policy
from kleinod.session import prepare_signing
from kleinod.session.finish import mark

NAMES = ("PNG", "JPEG", "WEBP", "AVIF")
THINGS = (
    *("a red fox in the snow", "an old lighthouse", "two boats on a calm lake", "soft light"),
    *("a stone bridge", "a market at dawn", "a bowl of green apples", "a wooden chair"),
)
DRAFT = RECEIPT | {"watermark": {"method": "robust"}}


def main() -> None:
    """Print the table."""
    picture = attacks.photograph("astronaut", 1024)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["KLEINOD_HOME"] = folder
        signing = prepare_signing(ProvenanceOptions())
        assert signing is not None
        log = audit_log.AuditLog(Path(folder) / "audit.jsonl")
        marked, receipt = mark(picture, DRAFT)
        print("| what | PNG | JPEG | WebP | AVIF |\n|---|---|---|---|---|")
        _row("mark, receipt, hashes of the pixels", 4 * [lambda: mark(picture, DRAFT)])
        _row("bare picture encoded", [lambda n=n: _bare(picture, n) for n in NAMES])
        _row(
            "marked picture with its receipt encoded",
            [lambda n=n: container.encoded(marked, n, receipt) for n in NAMES],
        )
        files = {name: container.encoded(marked, name, receipt) for name in NAMES}
        _row(
            "signed",
            [
                lambda n=n: manifest.signed(
                    files[n], n, receipt=receipt, references=(), identity=signing.identity
                )
                for n in NAMES
            ],
        )
        event = audit_log.generated(receipt, files["PNG"])
        _row("audit log", 4 * [lambda: audit_log.append(event, log)])
    guard = Guard.load(Policy(has_own_filters=False))
    _row("result judged", 4 * [lambda: guard.check_result(picture)])
    words = ", ".join(f"{thing} {index}" for index, thing in enumerate(THINGS * 12)).split()
    for count in (8, 16, 32, 64, 128, 256):
        prompt = " ".join(words[:count])
        _row(f"prompt judged, {len(prompt)} letters", 4 * [lambda p=prompt: guard.check_prompt(p)])


def _bare(picture: attacks.Image.Image, name: str) -> None:
    options = container._OPTIONS.get(name, {})
    picture.save(io.BytesIO(), name, **options)


def _row(title: str, calls: list[Callable[[], object]]) -> None:
    print(f"| {title} | " + " | ".join(f"{_least(call):.1f}" for call in calls) + " |", flush=True)


def _least(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(7):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return min(seconds) * 1000


if __name__ == "__main__":
    main()
