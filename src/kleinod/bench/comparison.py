"""One engine, or two in alternation, measured and set against the machine's floor. No torch here.

Every round asks each engine for one picture with a new prompt, in turns of who goes first, then
kleinod for the same prompt again, and for one encoded reference: the machine's speed drifts, and so
all of them see the same minutes. The probe is asked for the machine's rates right before and right
after kleinod's picture. The first call of each engine, which reads files and compiles, is kept
apart.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from kleinod.bench.plan import STAGES, Plan, new_prompt
from kleinod.bench.process import Worker

Progress = Callable[[str, float], None]
Rates = dict[str, float]
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
    """Everything that was measured, raw; rates before and after kleinod's picture of a round."""

    engines: dict[str, Engine]
    work: dict[str, Any]
    rates: list[tuple[Rates, Rates]]


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
        probe = partial(workers["probe"].ask, "rates", **_probe(work, engines[OWN].facts))
        rates: list[tuple[Rates, Rates]] = []
        for number in range(num_calls):
            progress("measuring", number / num_calls)
            order = names if number % 2 == 0 else names[::-1]
            ordered = {name: workers[name] for name in order}
            rates.append(_round(new_prompt(number + 1), ordered, engines, probe))
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


def _round(
    prompt: str,
    workers: Mapping[str, Worker],
    engines: Mapping[str, Engine],
    probe: Callable[[], Rates],
) -> tuple[Rates, Rates]:
    """The machine's rates before and after kleinod's picture."""
    rates = []
    for name, worker in workers.items():
        engine, is_own = engines[name], name == OWN
        rates += [probe()] if is_own else []
        engine.calls.append(worker.ask("paint", prompt=prompt))
        rates += [probe()] if is_own else []
        if is_own:
            engine.repeated.append(worker.ask("paint", prompt=prompt))
        engine.encodings.append(worker.ask("encode"))
    return rates[0], rates[1]


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
    seen = [rates for pair in comparison.rates for rates in pair]
    rates = {name: spread(r[name] for r in seen) for name in seen[0]}
    best = {name: some["high"] for name, some in rates.items()}
    floors = _floors(comparison.work, own["facts"], best)
    report = {
        "engines": engines,
        "operations": comparison.work["stages"],
        "products": comparison.work["products"],
        "operations_per_second": rates,
        "floor_seconds": floors,
        "times_floor": _times_floor(comparison),
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


def _floors(
    work: Mapping[str, Any], facts: Mapping[str, Any], rates: Mapping[str, float]
) -> dict[str, float]:
    """The seconds that each stage's operations need at some rates."""
    floors = {
        stage: parts["linear"] / rates[work["products"][stage]]
        + parts["attention"] / rates["attention"]
        for stage, parts in work["stages"].items()
    }
    floors["denoise"] = floors["per_step"] * facts["num_steps"]
    floors["encode"] = floors["encode_reference"] * facts["num_references"]
    floors["total"] = floors["encode"] + floors["text"] + floors["denoise"] + floors["decode"]
    floors["known_prompt"] = floors["total"] - floors["text"]
    return floors


def _times_floor(comparison: Comparison) -> dict[str, Any]:
    """kleinod's seconds of a round over the floor at the mean of the rates around its picture."""
    own = comparison.engines[OWN]
    floors = [
        _floors(comparison.work, own.facts, {k: (before[k] + after[k]) / 2 for k in before})
        for before, after in comparison.rates
    ]
    rounds = list(zip(own.calls, floors, strict=True))
    over = {
        stage: spread(call[stage] / floor[stage] for call, floor in rounds)
        for stage in STAGES
        if all(floor[stage] > 0 for floor in floors)
    }
    encodings = zip(own.encodings, floors, strict=True)
    over["encode_reference"] = spread(s / floor["encode_reference"] for s, floor in encodings)
    again = zip(own.repeated, floors, strict=True)
    over["known_prompt"] = spread(call["total"] / floor["known_prompt"] for call, floor in again)
    return over


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
