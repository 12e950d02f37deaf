"""Fetching a model from the Hugging Face hub into its cache, where `catalog` finds it. No torch.

Large files are fetched here, so that a run that was stopped is taken up where it ended; finished
and checked they lie in the hub's cache. huggingface-hub does the rest: small files, links, names.
"""

import errno
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urlsplit

from kleinod import catalog
from kleinod.display import printable, quoted
from kleinod.errors import InputError, KleinodError, WeightsError

if TYPE_CHECKING:
    from huggingface_hub.hf_api import ModelInfo

Progress = Callable[[str, int, int], None]  # file, bytes here, bytes in all

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_WEIGHTS = (".safetensors", ".gguf")
# of a folder in the diffusers layout, what is read here or by diffusers
_WANTED = re.compile(
    r"(model_index|kleinod|vocabulary)\.json|LICENSE[\w.]*"
    r"|(transformer|text_encoder|vae|tokenizer|scheduler)/[\w.-]+\.(json|safetensors|txt|jinja)"
)
_UNWANTED = re.compile(r".*\.(fp16|bf16|non_ema)\.")
_LARGE_BYTES = 10_000_000
_SPARE_BYTES = 500_000_000
_MAX_ATTEMPTS = 5
_CHUNK_BYTES = 1 << 20
_MAX_LICENSE = 120
_MISUNDERSTOOD = (
    ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError,
    AssertionError,
)  # fmt: skip


@dataclass(frozen=True)
class HubFile:
    """A file of a repository and whether it is in the cache already."""

    name: str
    num_bytes: int
    is_here: bool


@dataclass(frozen=True)
class Listing:
    """What a pull fetches."""

    repository: str
    revision: str
    license: str
    files: tuple[HubFile, ...]

    @property
    def missing_bytes(self) -> int:
        """Bytes still to fetch."""
        return sum(file.num_bytes for file in self.files if not file.is_here)

    @property
    def is_non_commercial(self) -> bool:
        """Whether the licence has to be accepted."""
        return "non-commercial" in self.license.lower()

    @property
    def url(self) -> str:
        """The page with the licence."""
        return f"{_endpoint()}/{self.repository}"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def repository_of(name: str) -> str:
    """The repository of a known name or the name itself if it is owner/name. Raises InputError."""
    known = catalog.KNOWN.get(name)
    if known is not None:
        if known.repository is None:
            raise InputError(f"name: {name} comes with kleinod; there is nothing to fetch")
        return known.repository
    if not _REPOSITORY.fullmatch(name):
        names = ", ".join(known.name for known in catalog.KNOWN.values() if known.repository)
        raise InputError(f"name: {name} is no known model; give owner/name or one of {names}")
    return name


def listing(
    repository: str, files: tuple[str, ...] = (), *, folders: tuple[str, ...] = ()
) -> Listing:
    """What there is to fetch: the named files, or those that a model needs. Raises InputError.

    folders: of those that a model needs, only the ones in these folders.
    """
    from huggingface_hub import HfApi

    with _plain_errors(repository):
        info = HfApi(endpoint=_endpoint()).model_info(repository, files_metadata=True, timeout=20)
        sizes = {entry.rfilename: _size(entry.size) for entry in info.siblings or ()}
        _check_names(repository, sizes)
        revision = str(info.sha)
        if not re.fullmatch(r"[0-9A-Za-z]{1,64}", revision):
            raise InputError(f"name: the hub names the revision {quoted(revision)} of {repository}")
        names = sorted(_chosen(repository, list(sizes), files))
        names = [name for name in names if not folders or name.partition("/")[0] in folders]
        found = tuple(HubFile(n, sizes[n], _is_cached(repository, n, revision)) for n in names)
        return Listing(repository, revision, _license(repository, info), found)


def _size(value: object) -> int:
    return value if type(value) is int and 0 <= value < 2**60 else 0


def _check_names(repository: str, names: Iterable[str]) -> None:
    """A hub names files inside the repository's folder, or nothing is fetched. Raises InputError.

    Backslashes and drives lead elsewhere on Windows.
    """
    for name in names:
        is_plain = name.isprintable() and not re.search(r"\\|^[A-Za-z]:", name)
        if not is_plain or any(part in ("", ".", "..") for part in name.split("/")):
            raise InputError(
                f"name: the hub lists the file {quoted(name)} in {repository}, which is not a "
                "path inside it; nothing was fetched, do not trust this repository"
            )


def _chosen(repository: str, names: list[str], wanted: tuple[str, ...]) -> list[str]:
    absent = [name for name in wanted if name not in names]
    if absent:
        raise InputError(f"file: {repository} has no {absent[0]}; `--dry-run` lists its files")
    if wanted:
        return list(wanted)
    if "model_index.json" in names:
        return [n for n in names if _WANTED.fullmatch(n) and not _UNWANTED.match(n)]
    weights = [name for name in names if name.endswith(_WEIGHTS)]
    if len(weights) != 1:
        some = ", ".join(weights[:6]) or "none"
        raise InputError(
            f"name: {repository} is no model folder and has {len(weights)} weight files "
            f"({some}); give one with --file NAME"
        )
    return [*weights, *(name for name in names if name.startswith("LICENSE"))]


def _license(repository: str, info: "ModelInfo") -> str:
    for known in catalog.KNOWN.values():
        if known.repository and known.repository.lower() == repository.lower():
            return known.license
    card = info.card_data
    named = card and (card.get("license_name") or card.get("license"))
    return printable(named or catalog.UNKNOWN_LICENSE, limit=_MAX_LICENSE)


def _is_cached(repository: str, name: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        repository, name, cache_dir=catalog.hub_cache(), revision=revision
    )
    return isinstance(found, str)


def check_room(*listings: Listing) -> None:
    """Raise InputError if the disk cannot hold what is missing of all of them."""
    missing_bytes = sum(wanted.missing_bytes for wanted in listings)
    folder = catalog.hub_cache()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < missing_bytes + _SPARE_BYTES:
        raise InputError(
            f"disk: {folder} has {free / 1e9:.1f} GB free, {listings[0].repository} needs "
            f"{(missing_bytes + _SPARE_BYTES) / 1e9:.1f}; make room or set HF_HUB_CACHE"
        )


def download(wanted: Listing, progress: Progress) -> Path:
    """Fetch what is missing; the folder it lies in. Raises InputError."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import disable_progress_bars, logging

    check_room(wanted)
    disable_progress_bars()
    logging.set_verbosity_error()  # each retry would be a line among the progress bars
    with _plain_errors(wanted.repository):
        for file in wanted.files:
            if file.num_bytes >= _LARGE_BYTES and not file.is_here:
                _fetch(wanted, file, progress)
        folder = snapshot_download(
            wanted.repository,
            revision="main",
            cache_dir=catalog.hub_cache(),
            endpoint=_endpoint(),
            allow_patterns=[glob.escape(file.name) for file in wanted.files],
            max_workers=4,
        )
    return Path(folder)


def _fetch(wanted: Listing, file: HubFile, progress: Progress) -> None:
    """Bring one large file into the cache's blobs, from where an earlier run stopped."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(wanted.repository, file.name, revision=wanted.revision, endpoint=_endpoint())
    metadata = get_hf_file_metadata(url, token=None, endpoint=_endpoint())
    if not metadata.etag or not re.fullmatch(r"\w[\w.-]*", metadata.etag):
        return  # the hub names no content; huggingface-hub fetches it without resuming
    blobs = catalog.repository_cache(wanted.repository) / "blobs"
    blobs.mkdir(parents=True, exist_ok=True)
    blob, part = blobs / metadata.etag, blobs / f"{metadata.etag}.kleinod-part"
    with WeakFileLock(str(part) + ".lock"):
        if not blob.exists():
            headers = build_hf_headers()
            if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
                headers.pop("authorization", None)  # the token is for the hub, not its storage
            _resume(metadata.location, headers, part, _Counter(file, progress))
            _check(part, metadata.etag, file)
            os.replace(part, blob)
    Path(str(part) + ".lock").unlink(missing_ok=True)


class _Counter:
    """The part file as huggingface-hub writes it, reporting how much is there."""

    def __init__(self, file: HubFile, progress: Progress) -> None:
        self.file, self._progress = file, progress
        self._part: BinaryIO

    def writing(self, part: BinaryIO) -> "_Counter":
        """Write to this open file."""
        self._part = part
        self._report()
        return self

    def write(self, data: bytes) -> int:
        """Write and report."""
        count = self._part.write(data)
        self._report()
        return count

    def tell(self) -> int:
        """Position in the file."""
        return self._part.tell()

    def seek(self, position: int) -> int:
        """Go to a position."""
        return self._part.seek(position)

    def truncate(self) -> int:
        """Cut at the position."""
        return self._part.truncate()

    def _report(self) -> None:
        self._progress(self.file.name, self._part.tell(), self.file.num_bytes)


def _resume(url: str, headers: dict[str, str], part: Path, counter: _Counter) -> None:
    """Append what is missing, again and again while it gets on."""
    import httpx2
    from huggingface_hub.file_download import http_get

    attempts = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        if before > counter.file.num_bytes:
            part.unlink()
            before = 0
        try:
            with part.open("ab") as file:
                http_get(
                    url,
                    counter.writing(file),  # type: ignore[arg-type]  # writes, seeks and truncates
                    resume_size=before,
                    headers=headers,
                    expected_size=counter.file.num_bytes,
                )
            return
        except httpx2.NetworkError:
            attempts = 0 if part.stat().st_size > before else attempts + 1
            if attempts >= _MAX_ATTEMPTS:
                raise


def _check(part: Path, etag: str, file: HubFile) -> None:
    """A large file's etag is its SHA-256. Raises WeightsError and removes what is wrong."""
    if not re.fullmatch(r"[0-9a-f]{64}", etag):
        return
    digest = hashlib.sha256()
    with part.open("rb") as data:
        while chunk := data.read(_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != etag:
        part.unlink()
        raise WeightsError(f"{file.name}: arrived damaged and was removed; pull it again")


@contextmanager
def _plain_errors(repository: str) -> Iterator[None]:
    """What can go wrong on the way, in one line with the remedy."""
    import httpx2
    from huggingface_hub import errors

    page = f"{_endpoint()}/{repository}"
    try:
        yield
    except KleinodError:
        raise
    except errors.GatedRepoError as error:
        raise InputError(
            f"name: {repository} is gated; ask for access at {page}, then set HF_TOKEN to a token "
            "of your account (or run `hf auth login`)"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"name: the hub has no {repository}, or it is private; check {page} and HF_TOKEN"
        ) from error
    except errors.HFValidationError as error:
        raise InputError(f"name: {repository} is no repository's name; give owner/name") from error
    except errors.OfflineModeIsEnabled as error:
        raise InputError("network: HF_HUB_OFFLINE is set; unset it to fetch a model") from error
    except errors.HfHubHTTPError as error:
        raise InputError(_answer(error.response.status_code, page)) from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError) as error:
        raise InputError(
            f"network: {_endpoint()} cannot be reached or broke off ({_first_line(error)}); check "
            "the connection and run it again, what has arrived is kept"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError("disk: is full; make room and run it again, it goes on") from error
        raise InputError(f"cache: {catalog.hub_cache()}: {_first_line(error)}; check it") from error
    # what the library raises at an answer that it does not understand
    except _MISUNDERSTOOD as error:
        raise InputError(
            f"name: the hub's answer about {repository} cannot be used "
            f"({type(error).__name__}: {quoted(_first_line(error))}); check {page}"
        ) from error


def _answer(status: int, page: str) -> str:
    if status in (401, 403):
        return f"name: the hub refuses access ({status}); check your rights at {page} and HF_TOKEN"
    return f"network: the hub answered {status}; try again later"


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
