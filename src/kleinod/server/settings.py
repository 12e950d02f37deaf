"""The service's settings: the environment (KLEINOD_*) over kleinod.toml over the defaults here.

An unknown name in either is an error, so that a misspelt limit is never a limit that is not there.
docs/service.md lists them from here; a test compares. Knows nothing of what is done with them.
"""

import json
import os
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from kleinod import catalog, fileio
from kleinod.errors import InputError
from kleinod.paths import expand_user, path_exists
from kleinod.request import MAX_PIXELS
from kleinod.server.untrusted.urls import normal_origin

PREFIX = "KLEINOD_"
FILE_NAME = "kleinod.toml"
FILE_VARIABLE = "KLEINOD_CONFIG"
# read by other parts of kleinod, with the same prefix
OTHER_VARIABLES = frozenset(
    {
        *("HOME", "CACHE", "MODELS", "CONFIG", "AUDIT_LOG", "AUDIT_PROMPTS", "KERNELS"),
        *("C2PA_CERTIFICATES", "C2PA_KEY", "C2PA_SIGN_COMMAND", "C2PA_TRUST"),
    }
)


class Settings(BaseSettings):
    """Every setting of `kleinod serve`, with its default."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    model: str = Field("mini", description="Name or path of the model that is served")
    more_models: tuple[str, ...] = Field(
        (), description="Others, served by their own names (a JSON list in the environment)"
    )
    device: str | None = Field(None, description="cpu, cuda, cuda:0, mps; the best there is")
    dtype: Literal["float32", "bfloat16", "float16"] | None = Field(
        None, description="Number format; the model's"
    )
    offload: Literal["auto", "none", "model", "block"] = Field(
        "auto",
        description="What leaves the device while it is not needed: nothing, all components but"
        " one, or all blocks but one",
    )
    residency: Literal["auto", "all", "sequential", "stream"] | None = Field(
        None, description="Old name and words of offload, for one more release"
    )
    quantize: Literal["int8", "fp8"] | None = Field(
        None, description="Compute in int8 or fp8: faster, not quite the same picture"
    )
    compile: bool | None = Field(
        None, description="Compile the blocks first; true on CUDA cards, else false"
    )

    host: str = Field("127.0.0.1", description="Address to listen at")
    port: int = Field(8686, ge=0, le=65535, description="Port to listen at; 0: a free one")
    public_url: str | None = Field(
        None, description="What clients call this server, for the URLs in answers; from the request"
    )

    cors_origins: tuple[str, ...] = Field(
        (), description='Web pages elsewhere that may call, such as ["https://app.example.com"]'
    )
    accept_openai_models: bool | None = Field(
        None, description="gpt-image-1, dall-e-3 … mean the first model; true if it is the only one"
    )

    database_url: str | None = Field(
        None, description="SQLAlchemy URL, such as postgresql+psycopg://; SQLite in data_folder"
    )
    storage_url: str | None = Field(
        None, description="fsspec URL for pictures, such as s3://bucket/path; data_folder"
    )
    data_folder: Path | None = Field(
        None, description="Where SQLite and pictures lie; the user's data folder"
    )

    batching: bool = Field(True, description="Requests of equal shape share forward passes")
    max_batch: int = Field(8, ge=1, le=256, description="Pictures in one forward pass")
    max_queue: int = Field(256, ge=1, description="Jobs that may wait; more are answered with 429")
    key_concurrency: int = Field(
        24, ge=1, description="Unfinished jobs of one key, unless the key says otherwise"
    )
    key_requests_per_minute: int = Field(
        600, ge=1, description="New jobs of one key per minute, unless the key says otherwise"
    )
    max_attempts_alone: int = Field(
        2, ge=1, description="A job that ran alone when the process died this often is failed"
    )
    lease_seconds: float = Field(
        20, gt=1, description="A server silent for so long is dead; its jobs go to the others"
    )
    finish_seconds: float = Field(
        30, ge=0, description="How long a stopping server finishes running jobs, then re-queues"
    )

    url_seconds: int = Field(600, ge=1, description="Validity of a picture's signed URL")
    result_seconds: int = Field(
        86400, ge=60, description="How long jobs and pictures are kept after they ended"
    )
    webhook_delays_seconds: tuple[float, ...] = Field(
        (1, 5, 30), description="Waits before a webhook is sent again"
    )
    webhook_timeout_seconds: float = Field(10, gt=0, description="For one webhook's answer")

    max_body_bytes: int = Field(64 * 2**20, ge=1024, description="Largest request body")
    max_references: int = Field(8, ge=0, description="Reference pictures of one request")
    max_reference_bytes: int = Field(20 * 2**20, ge=1024, description="Largest reference file")
    max_reference_pixels: int = Field(
        64 * 2**20, ge=4096, description="Pixels of a reference before it is shrunk"
    )
    max_request_reference_pixels: int = Field(
        2**27, ge=4096, description="Decoded pixels of all references of one request"
    )
    max_decoding_pixels: int = Field(
        2**28, ge=4096, description="Decoded pixels of all requests at once; 429 beyond"
    )
    max_prompt_characters: int = Field(32768, ge=1, description="Longest prompt")
    max_images: int = Field(10, ge=1, le=256, description="Pictures of one request")
    max_pixels: int = Field(
        MAX_PIXELS, ge=64 * 64, le=MAX_PIXELS, description="Pixels of a picture that is asked for"
    )
    max_steps: int = Field(100, ge=1, le=1000, description="Denoising steps of one request")
    fetch_timeout_seconds: float = Field(10, gt=0, description="For fetching a picture by URL")
    fetch_max_redirects: int = Field(3, ge=0, description="Redirects while fetching a picture")
    allow_private_urls: bool = Field(
        False, description="Pictures and webhooks may have private and loopback addresses"
    )

    safety: Literal["on", "off"] | None = Field(
        None, description="Filters of prompts, references and results; what safety.toml says"
    )
    watermark: Literal["robust", "reference", "none"] = Field(
        "robust", description="Mark in the pixels: ours, or the reference code's"
    )
    c2pa: Literal["on", "off"] = Field("on", description="Signed manifest in each picture")
    private: bool = Field(False, description="Leave prompts out of pictures")
    full_hashes: bool = Field(False, description="Hash all of the weights for receipts")

    log_prompts: bool = Field(False, description="Prompts in the log")
    log_format: Literal["text", "json"] = Field("text", description="Lines for people or programs")

    @field_validator("cors_origins")
    @classmethod
    def _normal_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        """As browsers send them; `*` is every page, for servers with keys."""
        found = {one: one if one == "*" else normal_origin(one.rstrip("/")) for one in origins}
        for given, origin in found.items():
            if origin is None:
                raise ValueError(f"{given!r} is no origin; give one such as https://example.com")
        return tuple(origin for origin in found.values() if origin is not None)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then the environment; the file comes in below, in `load`."""
        return init_settings, env_settings

    @property
    def folder(self) -> Path:
        """Where SQLite and pictures lie."""
        if self.data_folder is None:
            return default_data_folder()
        return expand_user(self.data_folder, "data_folder")

    @property
    def database(self) -> str:
        """The database's URL."""
        url = self.database_url or f"sqlite:///{self.folder.absolute() / 'kleinod.db'}"
        prefix, home, rest = url.partition("sqlite:///~")
        # no shell expands it in a file or in the environment
        is_home = not prefix and home
        return f"sqlite:///{expand_user(f'~{rest}', 'database_url')}" if is_home else url

    @property
    def storage(self) -> str:
        """The storage's URL or folder."""
        if self.storage_url is None:
            return str(self.folder.absolute() / "pictures")
        is_path = self.storage_url.startswith("~")
        return str(expand_user(self.storage_url, "storage_url")) if is_path else self.storage_url


def default_data_folder() -> Path:
    """$KLEINOD_HOME/server if that is set, else kleinod's in the user's data folder."""
    if os.environ.get("KLEINOD_HOME"):
        return catalog.config_folder() / "server"
    base = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return expand_user(base, "data_folder") / "kleinod"


def load(file: Path | None = None, **flags: Any) -> Settings:  # noqa: ANN401 - checked by pydantic
    """The settings: flags that are not None, the environment, the file. Raises InputError."""
    file = file or _found()
    stated = {} if file is None else _read(file)
    _check_environment(os.environ)
    given = {name: value for name, value in flags.items() if value is not None}
    under = {name: value for name, value in stated.items() if _variable(name) not in _upper()}
    try:
        return Settings(**(under | given))
    except ValidationError as error:
        raise InputError(_one_line(error.errors()[0], file, given)) from error
    except ValueError as error:  # a list in the environment that is no JSON
        raise InputError(f"settings: {error}; lists are JSON, such as [1, 5, 30]") from error


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def _upper() -> set[str]:
    return {name.upper() for name in os.environ}


def _found() -> Path | None:
    """$KLEINOD_CONFIG, else kleinod.toml here or in the configuration folder."""
    named = os.environ.get(FILE_VARIABLE)
    if named:
        return expand_user(named, FILE_VARIABLE)
    places = (Path(FILE_NAME), catalog.config_folder() / FILE_NAME)
    return next((place for place in places if path_exists(place, "settings")), None)


def _read(file: Path) -> dict[str, Any]:
    stated = fileio.read_toml(file, "settings")
    for name in stated:
        if name not in Settings.model_fields:
            raise InputError(f"{file}: {name} is no setting; {_nearest(name)}")
    return stated


def _check_environment(environment: Mapping[str, str]) -> None:
    """Raise InputError for a variable with our prefix that nothing reads."""
    for variable in environment:
        name = variable.upper().removeprefix(PREFIX)
        if name == variable.upper() or name in OTHER_VARIABLES:
            continue
        if name.lower() not in Settings.model_fields:
            nearest = _nearest(name.lower(), form=_variable)
            raise InputError(f"environment: {variable} is no setting; {nearest}")


def _nearest(name: str, form: Any = str) -> str:  # noqa: ANN401 - str or a function of one
    close = get_close_matches(name, Settings.model_fields, 1)
    return f"did you mean {form(close[0])}?" if close else "docs/service.md lists them"


def _one_line(error: ErrorDetails, file: Path | None, flags: Mapping[str, Any]) -> str:
    """Where a value came from, what it is and what is wrong with it."""
    name = str(error["loc"][0]) if error["loc"] else "settings"
    source = "settings"
    if name not in flags:
        source = "environment" if _variable(name) in _upper() else str(file or "settings")
    shown = _variable(name) if source == "environment" else name
    return f"{source}: {shown} is {error['input']!r}: {error['msg']}"


def table() -> str:
    """All settings for docs/service.md, in Markdown."""
    lines = ["| setting | default | meaning |", "|---|---|---|"]
    for name, facts in Settings.model_fields.items():
        value = facts.default
        shown = "" if value is None else json.dumps(value)
        lines.append(f"| `{name}` | {shown and f'`{shown}`'} | {facts.description} |")
    return "\n".join(lines) + "\n"
