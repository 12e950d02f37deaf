"""The loop of every stage: resuming to the bit, accumulation, many processes, curves."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from training_parts import RECIPE, shapes, tiny_flow, tiny_pools, tiny_tools

from kleinod.icons.scenes import Composer
from kleinod.training import checkpoints, sharding
from kleinod.training.flow_stage import FlowObjective, flow_loop, initialise
from kleinod.training.loop import Loop

SHORT = replace(RECIPE, steps=6, batch=4, first_examples=8, report_every=3, decay_from=0.9)


def started(folder: Path, **changes: Any) -> Loop:  # noqa: ANN401
    """A tiny flow stage in a folder, as a fresh process would start it."""
    composer = Composer(shapes(), seed=1)
    tools = tiny_tools(composer, folder)
    torch.manual_seed(0)
    for parameter in tools.autoencoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    flow = tiny_flow()
    initialise(flow)
    recipe = replace(SHORT, **changes)
    return flow_loop(flow, recipe, pools=tiny_pools(composer), tools=tools, folder=folder)


def same(a: Loop, b: Loop) -> bool:
    """Whether both hold the same weights, bit for bit."""
    pairs = zip(a.module.parameters(), b.module.parameters(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def interrupted(folder: Path, step: int) -> None:
    """Run to a step's checkpoint and stop there, as a killed process would."""

    class Stop(Exception):
        pass

    def stop(loop: Loop) -> None:
        if loop.step == step:
            raise Stop

    loop = started(folder)
    loop.on_report = stop
    with pytest.raises(Stop):
        loop.run()


def test_stopped_run_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    straight = started(tmp_path / "a")
    straight.run()
    interrupted(tmp_path / "b", step=3)
    resumed = started(tmp_path / "b")
    resumed.run()
    assert resumed.step == straight.step == 6
    assert same(straight, resumed)
    first, second = (checkpoints.load(tmp_path / n / "flow.safetensors") for n in "ab")
    assert first is not None and second is not None
    for name, value in first["average"].items():
        assert torch.equal(value, second["average"][name])


def test_a_run_tells_how_far_it_is_from_where_it_goes_on(tmp_path: Path) -> None:
    interrupted(tmp_path, step=3)
    loop, told = started(tmp_path), []
    loop.on_progress = lambda stage, fraction: told.append((stage, round(6 * fraction)))
    loop.run()
    assert told == [("examples", 0), ("examples", 6), ("flow", 4), ("flow", 5), ("flow", 6)]


def test_run_without_its_examples_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(tmp_path, step=3)
    (tmp_path / "flow-0.safetensors").unlink()
    started(tmp_path).run()
    assert "goes on at step 3 with other examples" in caplog.text


def test_accumulated_gradients_are_those_of_all_batches(tmp_path: Path) -> None:
    loop = started(tmp_path, accumulation=2, muon_rate=0.0, learning_rate=0.0)
    assert isinstance(loop.objective, FlowObjective)
    batches = [torch.randn(4, 128) for _ in range(2)]
    weight = loop.module.transformer.img_in.weight
    parts = iter(batches)
    loop.objective.loss = lambda kind: (next(parts) @ weight.T).pow(2).mean()  # type: ignore[method-assign]
    seen: list[torch.Tensor] = []
    step = loop.optimiser.step
    loop.optimiser.step = lambda factor: (seen.append(weight.grad.clone()), step(factor))[1]  # type: ignore[method-assign]
    loop.objective.prepare()
    loop._step()
    (expected,) = torch.autograd.grad((torch.cat(batches) @ weight.T).pow(2).mean(), weight)
    torch.testing.assert_close(seen[0], expected)


def test_checkpointed_blocks_have_the_same_gradients(tmp_path: Path) -> None:
    grads = []
    for name, wanted in (("a", False), ("b", True)):
        loop = started(tmp_path / name, checkpointing=wanted)
        loop.objective.prepare()
        torch.manual_seed(5)
        loop.objective.loss(1).backward()
        grads.append([p.grad for p in loop.module.parameters()])
    blocks = sharding.blocks(loop.module)
    assert len(blocks) == 5
    for plain, again in zip(*grads, strict=True):
        assert torch.equal(plain, again)


def test_curves_can_be_read_by_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    started(tmp_path).run()
    events = EventAccumulator(str(tmp_path / "flow"))
    events.Reload()
    points = events.Scalars("loss")
    lines = [json.loads(line) for line in (tmp_path / "flow.jsonl").read_text().splitlines()]
    assert [p.step for p in points] == [3, 6] == [line["step"] for line in lines]
    assert points[1].value == pytest.approx(lines[1]["loss"], abs=1e-4)


WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from test_training_loop import started
from kleinod.training import distributed
started(Path(sys.argv[1]), sharded=sys.argv[2] == "sharded").run()
distributed.stop()
"""


@pytest.mark.slow
def test_sharded_processes_learn_what_copies_learn(tmp_path: Path) -> None:
    """Two processes, once with a copy each, once with FSDP2: the same weights up to rounding."""
    (tmp_path / "worker.py").write_text(WORKER)
    states = []
    for kind in ("copies", "sharded"):
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += [
            "--master-port",
            "0",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "localhost:0",
        ]
        tiny_tools(Composer(shapes(), seed=1), tmp_path / kind)
        command += [str(tmp_path / "worker.py"), str(tmp_path / kind), kind]
        done = subprocess.run(
            [*command, str(Path(__file__).parent)], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        state = checkpoints.load(tmp_path / kind / "flow.safetensors")
        assert state is not None and state["step"] == 6
        states.append(state)
    for part in ("model", "average"):
        for name, value in states[0][part].items():
            torch.testing.assert_close(states[1][part][name], value, atol=2e-2, rtol=2e-2)
