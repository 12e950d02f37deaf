"""A process that trained with others ends in order: no thread of theirs outlives the group."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

# Trains a small module over two processes and stops; says which threads of gloo are left.
WORKER = """
import sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.fsdp import fully_shard
from kleinod.training import distributed, sharding

def copies():
    module = nn.Linear(8, 8)
    module(torch.ones(2, 8)).sum().backward()
    distributed.average_gradients(list(module.parameters()))

def sharded():
    module = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for part in (*module, module):
        fully_shard(part)
    optimiser = torch.optim.AdamW(module.parameters())
    for _ in range(2):
        module(torch.ones(2, 8)).sum().backward()
        optimiser.step()
    sharding.gathered({"model": module.state_dict(), "optimiser": optimiser.state_dict()})
    module.itself = [module]

def threads():
    names = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
    return sum("gloo" in name for name in names)

distributed.start()
globals()[sys.argv[1]]()
before = threads()
distributed.stop()
distributed.stop()
print(before > 0, threads(), dist.is_initialized())
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc tells the threads")
@pytest.mark.parametrize("kind", ["copies", "sharded"])
def test_stop_ends_the_threads_of_collectives(kind: str, tmp_path: Path) -> None:
    """One that is left may abort the process while the interpreter shuts down."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    workers = [
        subprocess.Popen(
            [sys.executable, script, kind],
            env=os.environ | place | {"RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    assert [output for output, _ in said] == ["True 0 False\n"] * 2, said
