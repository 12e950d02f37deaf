"""One engine, or two in alternation, measured and set against the machine's floor. No torch here.

Every round asks each engine for one picture with a new prompt, in turns of who goes first, then
kleinod for the same prompt again, for one encoded reference, and the probe for the machine's rates:
the machine's speed drifts, and so all of them see the same minutes. The first call of each engine,
which reads files and compiles, is kept apart.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from kleinod.bench.plan import STAGES, Plan, new_prompt
from kleinod.bench.process import Worker

Progress = Callable[[str, float], None]
OWN = "kleinod"


@dataclass
class Engine:
    """What one engine gave."""

    facts: dict[str, Any]
    first: dict[str, float] = field(default_factory=dict)
    calls: list[dict[str, float]] = field(default_factory=list)
    repeated: list[dict[str, float]] = field(default_factory=list)
    encodings: list[float] = field(default_factory=list)
    memory: dict[str, int | None] = field(default_factory=dict)


@dataclass
class Comparison:
    """Everything that was measured, raw."""

    engines: dict[str, Engine]
    work: dict[str, Any]
    rates: list[dict[str, float]]


def compared(plan: Plan, peer: str | None, *, num_calls: int, progress: Progress) -> Comparison:
    """Measure; every process that it starts has ended when it returns or raises."""
    names = [OWN, peer] if peer else [OWN]
    with ExitStack() as stack:
        workers = {name: stack.enter_context(Worker(name)) for name in (*names, "probe")}
        engines: dict[str, Engine] = {}
        for index, name in enumerate(names):
            progress("loading", index / len(names))
            engines[name] = Engine(workers[name].ask("load", plan=plan.to_json()))
            plan = _settled(plan, engines[OWN].facts)
        progress("loading", 1.0)
        for index, name in enumerate(names):
            progress("first calls", index / len(names))
            engines[name].first = workers[name].ask("paint", prompt=new_prompt(0))
        progress("first calls", 1.0)
        work = workers[OWN].ask("work")
        rates: list[dict[str, float]] = []
        for number in range(num_calls):
            progress("measuring", number / num_calls)
            order = names if number % 2 == 0 else names[::-1]
            _round(new_prompt(number + 1), {name: workers[name] for name in order}, engines)
            rates.append(workers["probe"].ask("rates", **_probe(work, engines[OWN].facts)))
        progress("measuring", 1.0)
        for name in names:
            engines[name].memory = workers[name].ask("memory")
    return Comparison(engines, work, rates)


def _settled(plan: Plan, facts: Mapping[str, Any]) -> Plan:
    """The plan with kleinod's choices, so that the peer gets the same."""
    return replace(
        plan,
        size=facts["size"],
        num_steps=facts["num_steps"],
        device=facts["device"],
        dtype=facts["dtype"],
    )


def _round(prompt: str, workers: Mapping[str, Worker], engines: Mapping[str, Engine]) -> None:
    for name, worker in workers.items():
        engines[name].calls.append(worker.ask("paint", prompt=prompt))
        if name == OWN:
            engines[name].repeated.append(worker.ask("paint", prompt=prompt))
        engines[name].encodings.append(worker.ask("encode"))


def _probe(work: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    formats = sorted(set(work["products"].values()))
    device, dtype = facts["device"], facts["dtype"]
    return {"device": device, "dtype": dtype, "formats": formats, "shapes": work["shapes"]}


def spread(values: Iterable[float]) -> dict[str, Any]:
    """Median, lowest and highest of some values, and all of them."""
    listed = list(values)
    return {
        "median": statistics.median(listed),
        "low": min(listed),
        "high": max(listed),
        "values": listed,
    }


def summarised(comparison: Comparison) -> dict[str, Any]:
    """The report as JSON: seconds by stage and engine, floors, ratios, memory, throughput."""
    engines = {name: _engine(engine) for name, engine in comparison.engines.items()}
    own = engines[OWN]
    rates = {name: spread(r[name] for r in comparison.rates) for name in comparison.rates[0]}
    floors = _floors(comparison, own["facts"])
    over = {
        stage: own["seconds"][stage]["median"] / floor
        for stage, floor in floors.items()
        if floor > 0 and stage in own["seconds"]
    }
    report = {
        "engines": engines,
        "operations": comparison.work["stages"],
        "products": comparison.work["products"],
        "operations_per_second": rates,
        "floor_seconds": floors,
        "times_floor": over,
    }
    peers = [name for name in engines if name != OWN]
    return report | {"ratios": {peer: _ratios(comparison, peer) for peer in peers}}


def _engine(engine: Engine) -> dict[str, Any]:
    facts = dict(engine.facts)
    seconds = {stage: spread(call[stage] for call in engine.calls) for stage in STAGES}
    seconds["encode_reference"] = spread(engine.encodings)
    made: dict[str, Any] = {
        "load_seconds": facts.pop("load_seconds"),
        "facts": facts,
        "first_seconds": engine.first,
        "seconds": seconds,
        "pictures_per_minute": 60 / seconds["total"]["median"],
        "memory": engine.memory,
    }
    if engine.repeated:
        made["known_prompt_seconds"] = {
            stage: spread(call[stage] for call in engine.repeated) for stage in STAGES
        }
    return made


def _floors(comparison: Comparison, facts: Mapping[str, Any]) -> dict[str, float]:
    """The seconds that the fastest probe of the run needs for each stage's operations."""
    work = comparison.work
    best = {name: max(r[name] for r in comparison.rates) for name in comparison.rates[0]}
    floors = {
        stage: parts["linear"] / best[work["products"][stage]]
        + parts["attention"] / best["attention"]
        for stage, parts in work["stages"].items()
    }
    floors["denoise"] = floors["per_step"] * facts["num_steps"]
    floors["encode"] = floors["encode_reference"] * facts["num_references"]
    floors["total"] = floors["encode"] + floors["text"] + floors["denoise"] + floors["decode"]
    floors["known_prompt"] = floors["total"] - floors["text"]
    return floors


def _ratios(comparison: Comparison, peer: str) -> dict[str, Any]:
    """The peer's seconds over kleinod's in the same round: over 1, kleinod is faster."""
    own, other = comparison.engines[OWN], comparison.engines[peer]
    pairs = list(zip(own.calls, other.calls, strict=True))
    ratios = {
        stage: spread(theirs[stage] / ours[stage] for ours, theirs in pairs)
        for stage in STAGES
        if all(ours[stage] > 0 for ours, _ in pairs)
    }
    encodings = zip(own.encodings, other.encodings, strict=True)
    ratios["encode_reference"] = spread(theirs / ours for ours, theirs in encodings)
    known = zip(own.repeated, other.calls, strict=True)
    ratios["known_prompt"] = spread(theirs["total"] / ours["total"] for ours, theirs in known)
    peaks = [engine.memory["resident_bytes"] for engine in (other, own)]
    if peaks[0] and peaks[1]:
        ratios["memory"] = {"median": peaks[0] / peaks[1]}
    return ratios
