"""Which licences this user has accepted, remembered in a small file. No torch, no network."""

import datetime
import json
from pathlib import Path
from typing import Any

from kleinod import fileio
from kleinod.catalog import config_folder
from kleinod.errors import InputError


def is_accepted(repository: str, license: str) -> bool:
    """Whether this licence of this repository was accepted before."""
    entry = _accepted().get(repository)
    return isinstance(entry, dict) and entry.get("license") == license


def accept(repository: str, license: str) -> None:
    """Remember that it was accepted, and when. Raises InputError."""
    file = acceptances()
    try:
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        entry = {"license": license, "accepted_at": now}
        text = json.dumps(_accepted() | {repository: entry}, indent=1)
        fileio.write_atomic(file, text + "\n")
    except OSError as error:
        raise InputError(f"{file}: cannot be written ({error}); set KLEINOD_HOME") from error


def acceptances() -> Path:
    """The file, in the configuration folder."""
    return config_folder() / "licenses.json"


def _accepted() -> dict[str, Any]:
    try:
        values = fileio.read_json(acceptances(), "licenses")
    except InputError:
        return {}  # asking once more does no harm
    return values if isinstance(values, dict) else {}
