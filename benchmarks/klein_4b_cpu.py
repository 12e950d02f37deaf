"""Seconds and memory of one picture with a model of klein-4b's real size, on the CPU.

    python benchmarks/klein_4b_cpu.py FOLDER [--diffusers] [--json]

FOLDER gets random weights (16 GB) if it is empty. Each engine runs in a process of its own, twice
with different prompts; the first call finds the files unread by its process, the last is warm. Peak
memory is the process's largest resident set, mapped file pages included.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from random_weights import write_model

PROMPTS = ("a red fox in the snow", "a lighthouse at night", "a bowl of cherries")
STAGES = ("text_seconds", "denoise_seconds", "decode_seconds", "total_seconds")
Figures = dict[str, Any]


def main() -> None:
    """Parse, write the model, run each engine, print."""
    options = _parser().parse_args()
    if options.engine:
        print(json.dumps(ENGINES[options.engine](options)))
        return
    write_model(options.folder, options.tokenizer or _own_tokenizer())
    engines = ["kleinod", "diffusers"] if options.diffusers else ["kleinod"]
    figures = {engine: _in_own_process(engine) for engine in engines}
    print(json.dumps(figures, indent=2) if options.json else _table(figures))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the model is, or is to be written")
    parser.add_argument("--tokenizer", type=Path, help="a Qwen3 tokenizer.json; default: our own")
    parser.add_argument("--diffusers", action="store_true", help="measure diffusers too")
    parser.add_argument("--size", type=int, default=256, help="pixels of a side")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--threads", type=int, help="threads of torch; default: torch's choice")
    parser.add_argument("--residency", default="auto", help="kleinod's residency policy")
    parser.add_argument("--json", action="store_true", help="print one object")
    parser.add_argument("--engine", choices=["kleinod", "diffusers"], help=argparse.SUPPRESS)
    return parser


def _own_tokenizer() -> Path:
    from kleinod.weights.folders import OWN_TOKENIZER

    return OWN_TOKENIZER


def _in_own_process(engine: str) -> Figures:
    command = [sys.executable, *sys.argv, "--engine", engine]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    return figures


def _measured(options: argparse.Namespace, load: Callable[[], Callable[[str], Figures]]) -> Figures:
    if options.threads:
        torch.set_num_threads(options.threads)
    start = time.perf_counter()
    paint = load()
    load_seconds = time.perf_counter() - start
    calls = [paint(PROMPTS[i % len(PROMPTS)]) for i in range(options.calls)]
    return {
        "load_seconds": load_seconds,
        "calls": calls,
        "peak_memory_bytes": _peak_memory_bytes(),
        "threads": torch.get_num_threads(),
        "size": options.size,
        "steps": options.steps,
    }


def run_kleinod(options: argparse.Namespace) -> Figures:
    """Figures of kleinod in this process."""

    def load() -> Callable[[str], Figures]:
        import kleinod

        pipeline = kleinod.load(options.folder, device="cpu", residency=options.residency)

        def paint(prompt: str) -> Figures:
            result = pipeline.generate(
                prompt,
                width=options.size,
                height=options.size,
                num_inference_steps=options.steps,
                seed=0,
            )
            return result.timings

        return paint

    return _measured(options, load)


def run_diffusers(options: argparse.Namespace) -> Figures:
    """Figures of diffusers in this process."""

    def load() -> Callable[[str], Figures]:
        from diffusers import Flux2KleinPipeline

        pipeline = Flux2KleinPipeline.from_pretrained(options.folder, dtype=torch.bfloat16)
        pipeline.set_progress_bar_config(disable=True)
        timings: Figures = {}
        _clock(pipeline, "encode_prompt", timings, "text_seconds")
        _clock(pipeline.transformer, "forward", timings, "denoise_seconds")
        _clock(pipeline.vae, "decode", timings, "decode_seconds")

        def paint(prompt: str) -> Figures:
            timings.clear()
            start = time.perf_counter()
            pipeline(
                prompt=prompt,
                width=options.size,
                height=options.size,
                num_inference_steps=options.steps,
                guidance_scale=1.0,
                generator=torch.Generator().manual_seed(0),
            )
            return timings | {"total_seconds": time.perf_counter() - start}

        return paint

    return _measured(options, load)


ENGINES = {"kleinod": run_kleinod, "diffusers": run_diffusers}


def _clock(owner: Any, name: str, timings: Figures, key: str) -> None:  # noqa: ANN401
    """Add the seconds of every call of owner.name to timings[key]."""
    called = getattr(owner, name)

    def clocked(*values: Any, **fields: Any) -> Any:  # noqa: ANN401
        start = time.perf_counter()
        result = called(*values, **fields)
        timings[key] = timings.get(key, 0.0) + time.perf_counter() - start
        return result

    setattr(owner, name, clocked)


def _peak_memory_bytes() -> int:
    status = Path("/proc/self/status")
    if status.is_file():
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    import resource

    # bytes on macOS, the only other system with this call that we know of
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _table(figures: dict[str, Figures]) -> str:
    rows = [["engine", "call", "load", "text", "denoise", "per step", "decode", "total", "peak GB"]]
    for engine, values in figures.items():
        for number, call in enumerate(values["calls"], start=1):
            text, denoise, decode, total = (call[stage] for stage in STAGES)
            seconds = (values["load_seconds"], text, denoise, denoise / values["steps"])
            cells = [f"{value:.2f}" for value in (*seconds, decode, total)]
            peak = f"{values['peak_memory_bytes'] / 1e9:.2f}"
            rows.append([engine, str(number), *cells, peak])
    return "\n".join(" | ".join(cell.rjust(9) for cell in row) for row in rows)


if __name__ == "__main__":
    main()
