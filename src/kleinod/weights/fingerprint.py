"""A short name for the content of large files, from their sizes and samples of their bytes.

Reads at most `SAMPLES` pieces of `SAMPLE_BYTES` of each file (the first holds the header), so that
16 GB cost milliseconds. It tells models apart; it is no proof against somebody who forges one.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path

SAMPLES, SAMPLE_BYTES = 32, 32 * 1024


def fingerprint(files: Iterable[Path], *facts: object) -> str:
    """32 hexadecimal digits of files in their order, and of facts that matter beside them."""
    digest = hashlib.sha256(repr(facts).encode())
    for file in files:
        size = file.stat().st_size
        digest.update(f"{size}:".encode())
        with file.open("rb") as stream:
            for index in range(SAMPLES):
                stream.seek(max(0, size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()[:32]
