"""Models that other packages carry: their files alone, and only the very files that were measured.

The filters' scores and thresholds belong to these bytes. A later release of such a package may hold
another model, so the hash decides and not the version. The packages are not imported: nothing of
their code runs (one of them can download, and imports onnxruntime).
"""

import hashlib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from importlib.util import find_spec
from pathlib import Path

from kleinod.errors import FilterError


@dataclass(frozen=True)
class PackageModel:
    """A file of an installed package, and the release and SHA-256 that are expected."""

    distribution: str
    version: str
    package: str
    file: str
    sha256: str

    def checked_path(self) -> Path:
        """Where it lies. Raises FilterError where it is missing or holds other bytes."""
        spec = find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise FilterError(f"the package {self.distribution} is missing; {self._remedy}")
        path = Path(next(iter(spec.submodule_search_locations))) / self.file
        try:
            with path.open("rb") as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise FilterError(f"{self._here} cannot be read ({error}); {self._remedy}") from error
        if found != self.sha256:
            raise FilterError(
                f"{self._here} has SHA-256 {found[:12]}..., expected is that of version "
                f"{self.version}, {self.sha256[:12]}...; {self._remedy}"
            )
        return path

    @property
    def _here(self) -> str:
        try:
            version = version_of(self.distribution)
        except PackageNotFoundError:
            version = "without a version"
        return f"{self.file} of the package {self.distribution} {version}"

    @property
    def _remedy(self) -> str:
        pinned = f"{self.distribution}=={self.version}"
        return f"run `pip install --force-reinstall --no-deps '{pinned}'`"
