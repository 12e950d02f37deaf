"""What is filtered on this installation: `safety.toml` in the configuration folder, and flags."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

from kleinod import fileio
from kleinod.catalog import config_folder
from kleinod.errors import InputError
from kleinod.paths import expand_user

FILE_NAME = "safety.toml"
BLOCK, NOTE = "block", "note"


@dataclass(frozen=True)
class Policy:
    """Which filters judge. `deny_list` is a file of phrases, `judge` a folder with a whole Qwen3.

    `report_address` is where people may report a picture or a mistake of the filters; it is told
    to them (whoever is stopped, the server's page, its OpenAPI document), not written to.
    `brands` is "block" or "note": whether brands and characters stop a request, or are only noted
    in its receipt; None leaves it to the caller, and blocks where that says nothing.
    `has_own_filters` says whether filters of other packages (entry points) take part.
    """

    is_on: bool = True
    deny_list: Path | None = None
    judge: Path | None = None
    report_address: str | None = None
    brands: str | None = None
    has_own_filters: bool = True

    @classmethod
    def configured(cls, file: Path | None = None) -> Self:
        """The policy of `safety.toml`, the defaults where there is none. Raises InputError."""
        file = config_folder() / FILE_NAME if file is None else file
        if not _exists(file):
            return cls()
        values = fileio.read_toml(file, "safety")
        known = {field.name for field in fields(cls)}
        for name in values.keys() - known:
            raise InputError(f"{file}: {name} is unknown; known are {', '.join(sorted(known))}")
        return cls(**{name: _checked(file, name, value) for name, value in values.items()})

    def with_brands(self, otherwise: str) -> Self:
        """With what happens to brands where the file does not say it."""
        return self if self.brands is not None else replace(self, brands=otherwise)

    def switched(self, state: str | None) -> Self:
        """With filters "on" or "off", as a flag says; None: as it is."""
        return self if state is None else replace(self, is_on=state == "on")


def _checked(file: Path, name: str, value: object) -> Any:  # noqa: ANN401 - a field's value
    is_switch = name in ("is_on", "has_own_filters")
    if not isinstance(value, bool if is_switch else str):
        kind = "true or false" if is_switch else "a text in quotation marks"
        raise InputError(f"{file}: {name} is {value!r}; give {kind}")
    if name == "brands" and value not in (BLOCK, NOTE):
        raise InputError(f'{file}: brands is {value!r}; give "block" or "note"')
    if name not in ("deny_list", "judge"):
        return value
    # beside the file, unless the path is absolute
    return file.parent / expand_user(str(value), f"{file}: {name}")


def _exists(file: Path) -> bool:
    """Whether a file is there; one that may not be looked at is, and reading it says why not."""
    try:
        return file.exists()
    except OSError:
        return True
