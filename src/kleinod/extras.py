"""Packages that only some commands need: the error where one is missing, and how to install it.

kleinod is on no package index, so an extra comes from where kleinod itself came from: a clone or
a wheel. A line that names kleinod alone would install what somebody else registers under the name.
"""

import json
import shlex
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from urllib.parse import unquote, urlsplit

from kleinod.errors import InputError


def missing_package(field: str, module: str, *, extra: str) -> InputError:
    """The error of a command or option (`field`) whose module cannot be imported."""
    package = module.partition(".")[0]
    return InputError(f"{field}: the package {package} is missing; {install_remedy(extra)}")


def install_remedy(extra: str) -> str:
    """What installs an extra, as the end of a message: "run `pip install '.[serve]'` in ..."."""
    source = _source_tree() or _installed_from()
    if source is not None and source.suffix == ".whl":
        return f"run `pip install {shlex.quote(f'{source}[{extra}]')}`"
    return f"run `pip install '.[{extra}]'` in {source or 'a clone of kleinod'}"


def _source_tree() -> Path | None:
    """The clone that this module is imported from (an editable installation, or PYTHONPATH)."""
    folder = Path(__file__).parents[2]
    return folder if _is_clone(folder) else None


def _installed_from() -> Path | None:
    """The clone or wheel that pip installed, if it is still there (PEP 610)."""
    try:
        record = Distribution.from_name("kleinod").read_text("direct_url.json")
    except PackageNotFoundError:
        return None
    url = urlsplit(json.loads(record)["url"] if record else "")
    path = Path(unquote(url.path))
    is_here = url.scheme == "file" and (_is_clone(path) or path.is_file())
    return path if is_here else None


def _is_clone(folder: Path) -> bool:
    return (folder / "pyproject.toml").is_file() and (folder / "src" / "kleinod").is_dir()
