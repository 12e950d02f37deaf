"""Too little memory is one line with a remedy; freed memory is kept and given back."""

import resource
import subprocess
import sys

import pytest
import torch

import kleinod
from kleinod import allocator
from kleinod.errors import MemoryLimitError


def _too_much(*values: object) -> torch.Tensor:
    return torch.empty(2**55, dtype=torch.uint8)


@pytest.mark.parametrize("stage", ["text_encoder", "transformer", "autoencoder"])
def test_too_little_memory_is_one_line(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = kleinod.load("mini", device="cpu")
    module = pipeline.residents.use(stage)
    monkeypatch.setattr(module, "decode" if stage == "autoencoder" else "forward", _too_much)
    with pytest.raises(MemoryLimitError) as raised:
        pipeline.generate("a fox", width=64, height=128, num_images=3, seed=1)
    assert str(raised.value) == (
        "memory: there is not enough of it; paint fewer or smaller pictures at once than "
        "3 of 64x128, set residency to sequential, take an FP8 file, or set quantize to int8"
    )


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_every_kind_of_memory_error_is_told(error: Exception) -> None:
    with pytest.raises(MemoryLimitError, match="do less"), allocator.memory_told(lambda: "do less"):
        raise error


def test_other_errors_pass() -> None:
    error = RuntimeError("shapes differ")
    with pytest.raises(RuntimeError, match="shapes differ"), allocator.memory_told(lambda: ""):
        raise error


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's heap is told")
def test_freed_memory_is_kept_until_it_is_given_back() -> None:
    code = """
import resource, torch
from kleinod import allocator
allocator.keep_freed_memory()
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(50_000_000, dtype=torch.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
first, second = faults(), faults()
allocator.give_back()
print(first, second, faults())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True
    )
    first, second, third = map(int, done.stdout.split())
    pages = 50_000_000 // resource.getpagesize()
    assert first > pages * 0.9 and second < pages * 0.1 and third > pages * 0.5
