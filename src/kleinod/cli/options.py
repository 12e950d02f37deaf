"""The options of `kleinod generate` as one frozen dataclass."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import typer

from kleinod.errors import InputError
from kleinod.load_options import DTYPES, POLICIES, check_dtype, check_offload

Options = TypeVar("Options")


def _beginning(words: Sequence[str]) -> Callable[[str], list[str]]:
    """The words that begin as what was typed, for the shell."""
    return lambda incomplete: [word for word in words if word.startswith(incomplete)]


def _naming_option(check: Callable[[str], str]) -> Callable[[str], str]:
    """The check as typer's parser; its error begins with the option instead of the argument."""

    def parse(word: str) -> str:
        try:
            return check(word)
        except InputError as error:
            raise InputError(f"--{error}") from None

    return parse


def dtype_option(help: str) -> Any:  # noqa: ANN401 - what typer.Option gives
    """An option that takes a number format, also as bf16, fp16 or fp32."""
    metavar = f"<{'|'.join(DTYPES)}>"
    completion = _beginning(DTYPES)
    return typer.Option(
        help=help, parser=_naming_option(check_dtype), metavar=metavar, autocompletion=completion
    )


Dtype = Annotated[str | None, dtype_option("Number format.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
QuietButPath = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the path.")]
_OFFLOAD = typer.Option(
    parser=_naming_option(check_offload),
    metavar=f"<{'|'.join(POLICIES)}>",
    autocompletion=_beginning(POLICIES),
    help="What leaves the device while it is not needed: nothing, all components but one (model),"
    " or all blocks but one (block). Default: by the model's size and the memory.",
)
Offload = Annotated[str, _OFFLOAD]
ServedOffload = Annotated[str | None, _OFFLOAD]
# the option of version 0.1, for one more release
OldOffload = Annotated[
    str | None,
    typer.Option("--residency", hidden=True, parser=_naming_option(check_offload)),
]
Quantize = Annotated[
    Literal["int8", "fp8"] | None,
    typer.Option(
        help="Compute in int8 (faster on the CPU) or fp8 (on NVIDIA cards from Ada on): not"
        " quite the same picture."
    ),
]
Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile", help="Compile the blocks first. Default: on CUDA cards."
    ),
]


def known_models(incomplete: str) -> list[str]:
    """Names of models that begin so, for the shell; it completes paths itself."""
    from kleinod import catalog

    return [name for name in catalog.KNOWN if name.startswith(incomplete)]


def devices(incomplete: str) -> list[str]:
    """Kinds of devices that begin so, for the shell."""
    return [name for name in ("cpu", "cuda", "mps") if name.startswith(incomplete)]


Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda, cuda:0, mps. Default: the best there is.", autocompletion=devices
    ),
]


def taking(options: type[Options]) -> Callable[[Callable[[Options], None]], Callable[..., None]]:
    """Make a function of one dataclass a command whose parameters are the dataclass's fields."""

    def decorated(function: Callable[[Options], None]) -> Callable[..., None]:
        def command(**values: Any) -> None:  # noqa: ANN401 - typer has checked them
            function(options(**values))

        command.__name__, command.__doc__ = function.__name__, function.__doc__
        command.__annotations__ = get_type_hints(options, include_extras=True)
        # typer reads the signature; nothing in the type of a function promises the attribute
        setattr(command, "__signature__", inspect.signature(options))  # noqa: B010
        return command

    return decorated


_PART = typer.Option(metavar="PATH", help="Its file or folder, where the model brings none.")


@dataclass(frozen=True, kw_only=True)
class GenerateOptions:
    """What the user typed; None means the model's default."""

    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to paint or to change.")]
    reference: Annotated[
        list[Path] | None,
        typer.Option(
            "-r",
            "--reference",
            metavar="PICTURE",
            help="A picture to edit or to draw from; may be given several times.",
        ),
    ] = None
    model: Annotated[
        str,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="A name from `kleinod models`, or a path.",
            autocompletion=known_models,
        ),
    ] = "mini"
    text_encoder: Annotated[Path | None, _PART] = None
    autoencoder: Annotated[Path | None, _PART] = None
    tokenizer: Annotated[Path | None, _PART] = None
    width: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None
    height: Annotated[int | None, typer.Option(help="Pixels, a multiple of 16.")] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; base models only.")] = None
    negative_prompt: Annotated[str, typer.Option(help="What to guide away from.")] = ""
    seed: Annotated[
        int | None,
        typer.Option(
            help="Repeats a picture; drawn if left out. Seeds that differ by a multiple of 2^32"
            " give the same noise."
        ),
    ] = None
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", help="How many; each has the next seed.")
    ] = 1
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A file (.png, .jpg, .webp, .avif; it is overwritten) or a folder. Several"
            " pictures are numbered. Default: kleinod-SEED.png here, or the next free name.",
        ),
    ] = None
    device: Device = None
    dtype: Dtype = None
    offload: Offload = "auto"
    residency: OldOffload = None
    quantize: Quantize = None
    compile: Compile = None
    watermark: Annotated[
        Literal["robust", "reference", "none"],
        typer.Option(help="Invisible mark in the pixels: ours, or the reference code's."),
    ] = "robust"
    c2pa: Annotated[
        Literal["on", "off"], typer.Option(help="Signed manifest of how the picture was made.")
    ] = "on"
    safety: Annotated[
        Literal["on", "off"] | None,
        typer.Option(help="Filters of prompt, references and results. Default: on."),
    ] = None
    safety_tolerance: Annotated[
        int, typer.Option(help="0 (strict) to 5; what the law forbids is stopped at each.")
    ] = 2
    private: Annotated[
        bool, typer.Option("--private", help="Leave prompts and file names out of the picture.")
    ] = False
    receipt: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="Write the receipt there, too; it is overwritten."),
    ] = None
    full_hashes: Annotated[
        bool,
        typer.Option("--full-hashes", help="Hash all of the weights for the receipt, not samples."),
    ] = False
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False
    show: Annotated[
        bool, typer.Option("--show/--no-show", help="Draw the picture in a terminal that can.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no report.")] = False
