"""The programs that tests drive and pip cannot install: where they are, and what happens without.

A test without its program is skipped, and one line at the end of the run says which were, why, and
what to do. With CI=true in the environment it fails. `tests/install_system_packages.sh` installs
the programs.
"""

import glob
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

import pytest

from kleinod.kernels import native

CHROMIUM, POSTGRESQL, C_COMPILER = "Chromium", "PostgreSQL", "a C compiler"
REMEDY = '"sudo make system_packages" (Debian, Ubuntu), or by your system\'s own means'
_REASON = "not on this machine: "
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
# Debian keeps the server's programs out of the path
_POSTGRESQL_FOLDERS = "/usr/lib/postgresql/*/bin"


def find_chromium() -> str:
    """The path of $CHROMIUM, or of a Chromium in the path; without one the test is skipped."""
    names = (os.environ["CHROMIUM"],) if os.environ.get("CHROMIUM") else _BROWSERS
    found = next(filter(None, map(shutil.which, names)), None)
    return found or _skip(CHROMIUM)


def find_postgresql(name: str) -> str:
    """The path of one of PostgreSQL's programs; without it the test is skipped."""
    own = os.environ.get("POSTGRESQL_FOLDER")
    folders = [own] if own else [*sorted(glob.glob(_POSTGRESQL_FOLDERS))[::-1], os.environ["PATH"]]
    return shutil.which(name, path=os.pathsep.join(folders)) or _skip(POSTGRESQL)


def require_compiled_kernels() -> None:
    """Skip the test where kleinod was installed without a C compiler."""
    if (native.why_unused() or "").endswith("without a C compiler"):
        _skip(C_COMPILER)


def summary(skipped: Iterable[pytest.TestReport]) -> str | None:
    """One line about the tests that were skipped for want of a program; None if none was."""
    files = defaultdict[str, list[str]](list)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if _REASON in reason:
            files[reason.split(_REASON)[1]].append(Path(report.nodeid.split("::")[0]).name)
    if not files:
        return None
    parts = (
        f"{len(names)} tests in {', '.join(sorted(set(names)))} need {program}"
        for program, names in sorted(files.items())
    )
    return f"SKIPPED, NOT TESTED: {'; '.join(parts)}. Install: {REMEDY}; then run the tests again."


def _skip(program: str) -> NoReturn:
    """Skip, or fail where a machine of CI was to have it."""
    reason = _REASON + program
    if os.environ.get("CI", "").lower() not in ("", "0", "false"):
        pytest.fail(f"{reason}, and CI is set; install it: {REMEDY}", pytrace=False)
    pytest.skip(reason)
