"""The other side of process.Worker: an engine, or the probe, that answers questions.

python -m kleinod.bench.runner_process kleinod|diffusers|diffusers-compiled|probe
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from kleinod import memory
from kleinod.bench.peak_memory import PrivatePeak
from kleinod.bench.plan import Plan
from kleinod.errors import InputError

Stages = dict[str, float]


class Engine(Protocol):
    """What the bench asks of an engine that holds a model."""

    def facts(self) -> dict[str, Any]:
        """What it runs, on what."""

    def paint(self, prompt: str, seed: int, path: str | None) -> Stages:
        """Seconds of each stage of one picture, which goes to path if there is one."""

    def encode(self) -> float:
        """Seconds of encoding one reference of the picture's size."""

    def work(self) -> dict[str, Any]:
        """Operations of its stages, after a picture; kleinod alone tells."""

    def device_bytes(self) -> int | None:
        """The most that an accelerator held; None on the CPU."""


def _kleinod(plan: Plan) -> Engine:
    from kleinod.bench.kleinod_runner import KleinodEngine

    return KleinodEngine(plan)


def _diffusers(plan: Plan) -> Engine:
    from kleinod.bench.diffusers_runner import DiffusersEngine

    return DiffusersEngine(plan)


def _diffusers_compiled(plan: Plan) -> Engine:
    from kleinod.bench.diffusers_runner import DiffusersEngine

    return DiffusersEngine(plan, is_compiled=True)


ENGINES: dict[str, Callable[[Plan], Engine]] = {
    "kleinod": _kleinod,
    "diffusers": _diffusers,
    "diffusers-compiled": _diffusers_compiled,
}


class _Session:
    """The questions of an engine's worker; the probe's is `rates` alone."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._engine: Engine | None = None
        self._peak = PrivatePeak()

    def load(self, plan: dict[str, Any]) -> dict[str, Any]:
        import torch  # apart from the seconds: every engine needs it

        wanted = Plan.from_json(plan)
        if wanted.threads:
            torch.set_num_threads(wanted.threads)
        start = time.perf_counter()
        self._engine = ENGINES[self._name](wanted)
        seconds = time.perf_counter() - start
        cuda = torch.cuda.is_available()
        return {
            "load_seconds": seconds,
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "accelerator": torch.cuda.get_device_name() if cuda else None,
            **self._engine.facts(),
        }

    def paint(self, prompt: str, seed: int = 0, path: str | None = None) -> Stages:
        return self._loaded().paint(prompt, seed, path)

    def encode(self) -> float:
        return self._loaded().encode()

    def work(self) -> dict[str, Any]:
        return self._loaded().work()

    def memory(self) -> dict[str, int | None]:
        return {
            "resident_bytes": memory.peak_bytes(),
            "private_bytes": self._peak.largest,
            "device_bytes": self._loaded().device_bytes(),
        }

    def rates(self, **shapes: Any) -> dict[str, float]:  # noqa: ANN401 - JSON
        from kleinod.bench.probe import measured_rates

        return measured_rates(**shapes)

    def _loaded(self) -> Engine:
        assert self._engine, "load first"
        return self._engine


def answered(session: object, line: str) -> dict[str, Any]:
    """The answer to one line, or the error as one line."""
    fields = json.loads(line)
    question = getattr(session, fields.pop("question"))
    try:
        return {"answer": question(**fields)}
    except Exception as error:  # the worker's edge: the parent raises it again
        text = " ".join(str(error).split()) or type(error).__name__
        return {"error": text, "is_users_fault": isinstance(error, InputError)}


def _own_output() -> TextIO:
    """The pipe to the parent; what libraries print goes to stderr instead."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return own


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    output = _own_output()
    session = _Session(sys.argv[1])
    for line in sys.stdin:
        output.write(json.dumps(answered(session, line)) + "\n")
        output.flush()


if __name__ == "__main__":
    main()
