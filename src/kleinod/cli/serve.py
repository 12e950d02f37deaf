"""`kleinod serve`: the model behind HTTP."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal

import typer

from kleinod.cli.options import (
    Compile,
    Device,
    Dtype,
    Quantize,
    ServedOffload,
    known_models,
    taking,
)
from kleinod.extras import missing_package


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """What the user typed; None means what kleinod.toml or the environment says."""

    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A name from `kleinod models`, or a path.",
            autocompletion=known_models,
        ),
    ] = None
    host: Annotated[
        str | None, typer.Option(help="Address to listen at; others than this machine's need keys.")
    ] = None
    port: Annotated[int | None, typer.Option(help="Port to listen at; 0: a free one.")] = None
    public_url: Annotated[
        str | None, typer.Option(metavar="URL", help="What clients call this server.")
    ] = None
    data_folder: Annotated[Path | None, typer.Option(help="Where jobs and pictures are kept.")] = (
        None
    )
    device: Device = None
    dtype: Dtype = None
    offload: ServedOffload = None
    quantize: Quantize = None
    compile: Compile = None
    log_format: Annotated[
        Literal["text", "json"] | None, typer.Option(help="Log lines for people or programs.")
    ] = None
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.toml",
            help="Settings. Default: kleinod.toml here or in the user's folder.",
        ),
    ] = None


@taking(ServeOptions)
def serve(options: ServeOptions) -> None:
    """Serve a model over HTTP: BFL's API, OpenAI's Images API and a page."""
    try:
        from kleinod.server import serving, settings
    except ModuleNotFoundError as error:
        raise missing_package("serve", str(error.name), extra="serve") from error
    flags = {field.name: getattr(options, field.name) for field in fields(options)}
    serving.serve(settings.load(flags.pop("config"), **flags))
