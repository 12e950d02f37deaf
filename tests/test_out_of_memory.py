"""Too little memory is one line with a remedy; large tensors lie in large pages."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kleinod import memory
from kleinod.diffusion.loading import load_sampler
from kleinod.errors import MemoryLimitError


def _too_much(*values: object) -> torch.Tensor:
    return torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize("stage", ["text_encoder", "transformer", "autoencoder"])
def test_too_little_memory_is_one_line(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = load_sampler("mini", device="cpu")
    module = pipeline.residents.use(stage)
    monkeypatch.setattr(module, "decode" if stage == "autoencoder" else "forward", _too_much)
    with pytest.raises(MemoryLimitError) as raised:
        pipeline.generate("a fox", width=64, height=128, num_images=3, seed=1)
    assert str(raised.value) == (
        "memory: there is not enough of it; paint fewer or smaller pictures at once than "
        "3 of 64x128, set offload to model, take an FP8 file, or set quantize to int8"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_every_kind_of_memory_error_is_told(error: Exception) -> None:
    with pytest.raises(MemoryLimitError, match="do less"), memory.memory_told(lambda: "do less"):
        raise error


def test_other_errors_pass() -> None:
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"), memory.memory_told(lambda: ""):
        raise error


_SWITCH = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.slow
@pytest.mark.skipif(
    not _SWITCH.is_file() or "[never]" in _SWITCH.read_text(), reason="no large pages here"
)
def test_large_tensors_lie_in_large_pages() -> None:
    code = """
import resource, torch
from kleinod.diffusion.loading import load_sampler
load_sampler("mini", device="cpu")
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(80_000_000, dtype=torch.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    # one for each page of 4 KB without; 60 seen
    assert int(done.stdout) < 80_000_000 // resource.getpagesize() / 4
