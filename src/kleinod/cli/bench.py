"""`kleinod bench`: parse, measure, print."""

import json
import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from kleinod import catalog
from kleinod.bench.plan import Plan
from kleinod.cli.options import Offload, OldOffload, Quiet, dtype_option, known_models, taking
from kleinod.cli.progress_bars import Report, progress_bars
from kleinod.errors import InputError
from kleinod.extras import missing_package

Sizes = Literal["klein-4b", "klein-9b"]
MAX_CALLS = 1000


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """What the user typed."""

    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME_OR_PATH",
            help="What to measure. [default: mini]",
            autocompletion=known_models,
        ),
    ] = None
    random_weights: Annotated[
        Sizes | None,
        typer.Option(
            help="Instead of a model: random weights of that size, written to a temporary folder."
        ),
    ] = None
    folder: Annotated[
        Path | None,
        typer.Option(help="Keep the random weights there, and take them if they are there."),
    ] = None
    against: Annotated[
        Literal["diffusers", "diffusers-compiled"] | None,
        typer.Option(help="Measure this engine too, call by call in turn."),
    ] = None
    quality: Annotated[
        bool,
        typer.Option("--quality", help="Measure instead what each lossy mode costs and saves."),
    ] = False
    size: Annotated[
        int | None,
        typer.Option(help="Pixels of a side. Default: the model's; on the CPU 256 at most."),
    ] = None
    steps: Annotated[int | None, typer.Option(help="Denoising steps.")] = None
    references: Annotated[int, typer.Option(help="Reference pictures in each call.")] = 0
    calls: Annotated[int, typer.Option(help="Rounds after the first call.")] = 5
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:0, mps.")] = None
    dtype: Annotated[str | None, dtype_option("Number format.")] = None
    offload: Offload = "auto"
    residency: OldOffload = None
    quantize: Annotated[
        Literal["int8", "fp8"] | None, typer.Option(help="Compute kleinod's blocks so.")
    ] = None
    compile: Annotated[
        bool | None, typer.Option("--compile/--no-compile", help="Default: on CUDA cards.")
    ] = None
    threads: Annotated[int | None, typer.Option(help="Threads of torch on the CPU.")] = None
    pictures: Annotated[int, typer.Option(help="How many --quality compares.")] = 12
    chart: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw it; the file is overwritten.")
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead.")] = False
    quiet: Quiet = False


@taking(BenchOptions)
def bench(options: BenchOptions) -> None:
    """Measure seconds, memory and the distance from what the machine can do."""
    _check(options)
    show = progress_bars(quiet=options.quiet or options.json)
    with _stoppable(), show as report, _model(options, report) as model:
        made = (
            _quality(options, model, report) if options.quality else _speed(options, model, report)
        )
    if options.json:
        print(json.dumps(made))
        return
    from kleinod.cli import bench_table

    (bench_table.print_quality if options.quality else bench_table.print_speed)(made)


def _check(options: BenchOptions) -> None:
    """Raise InputError before anything is started."""
    if options.random_weights and options.model:
        raise InputError("random_weights: a model is given too; leave one of them out")
    if options.folder and not options.random_weights:
        raise InputError("folder: keeps random weights; give --random-weights too")
    for name, count in (("calls", options.calls), ("pictures", options.pictures)):
        if not 1 <= count <= MAX_CALLS:
            raise InputError(f"{name}: {count}; give one from 1 to {MAX_CALLS}")
    if not 0 <= options.references <= 10:
        raise InputError(f"references: {options.references}; give one from 0 to 10")
    if options.threads is not None and options.threads < 1:
        raise InputError(f"threads: {options.threads} is under 1; give 1 or more")
    if options.chart and (options.chart.suffix != ".png" or not options.chart.parent.is_dir()):
        raise InputError(f"chart: {options.chart} is no .png in a folder that exists; name one")
    if options.quality and options.against:
        raise InputError("against: --quality compares kleinod's own modes; leave one of them out")
    if options.quality and options.quantize:
        raise InputError("quantize: --quality measures every mode; leave one of them out")
    if options.against:
        _check_peer(options)


def _check_peer(options: BenchOptions) -> None:
    missing = [name for name in ("diffusers", "transformers", "accelerate") if not find_spec(name)]
    if missing:
        raise missing_package("against", missing[0], extra="bench")
    if options.model and catalog.find(options.model).is_file():
        raise InputError("against: diffusers reads whole folders only; give one with --model")


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let a polite kill do what Ctrl-C does: processes end, temporary folders go."""

    def stop(*signals: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _model(options: BenchOptions, report: Report) -> AbstractContextManager[str | Path]:
    """The name or path to measure."""
    if options.random_weights is None:
        return nullcontext(options.model or "mini")
    from kleinod.bench import random_model  # late: torch takes a second

    name = options.random_weights
    layers = random_model.ALL_LAYERS if options.against else random_model.READ_LAYERS
    return random_model.random_model(
        random_model.RandomModel(name, random_model.SIZES[name], layers),
        options.folder,
        is_held_whole=bool(options.against)
        or (options.residency or options.offload) in ("none", "all"),
        progress=lambda fraction: report("writing weights", fraction),
    )


def _plan(options: BenchOptions, model: str | Path) -> Plan:
    return Plan(
        model=str(model),
        size=options.size,
        num_steps=options.steps,
        device=options.device,
        dtype=options.dtype,
        offload=options.residency or options.offload,
        quantize=options.quantize,
        compile=options.compile,
        threads=options.threads,
        num_references=options.references,
    )


def _speed(options: BenchOptions, model: str | Path, report: Report) -> dict[str, Any]:
    from kleinod.bench.chart import drawn
    from kleinod.bench.comparison import compared, summarised
    from kleinod.bench.machine import machine

    plan = _plan(options, model)
    measured = compared(plan, options.against, num_calls=options.calls, progress=report)
    made = {"machine": machine(), "plan": plan.to_json()} | summarised(measured)
    if options.chart:
        drawn(made).save(options.chart)
    return made


def _quality(options: BenchOptions, model: str | Path, report: Report) -> dict[str, Any]:
    from kleinod.bench.machine import machine
    from kleinod.bench.quality import quality  # late: torch takes a second

    plan = _plan(options, model)
    return {"machine": machine()} | quality(plan, options.pictures, report)
