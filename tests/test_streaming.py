"""Under `stream` a block's pages are the process's only while it computes."""

import re
import sys
from pathlib import Path

import pytest
import sized
import tiny
import torch

from kleinod.diffusion.latents import image_position_ids, text_position_ids
from kleinod.diffusion.loading import load_sampler
from kleinod.runtime import page_streaming
from kleinod.weights import build

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux is told")
FIELDS = {"width": 64, "height": 64, "num_inference_steps": 2, "seed": 3}


def _resident_bytes(file: Path) -> int:
    """How much of a mapped file is in this process's memory."""
    total, is_file = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if re.match(r"[0-9a-f]+-", line):
            is_file = line.endswith(str(file))
        elif is_file and line.startswith("Rss:"):
            total += int(line.split()[1]) * 1024
    return total


@pytest.mark.slow
def test_only_the_blocks_in_use_are_in_memory(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    size = sized.write_bfl_fp8(file, sized.MIDDLE)
    module = build.open_transformer(file).filled(torch.device("cpu"), torch.bfloat16)
    given = (
        torch.randn(1, 16, 128).bfloat16(),
        torch.tensor([0.5]).bfloat16(),
        torch.randn(1, 8, sized.MIDDLE.joint_attention_dim).bfloat16(),
        image_position_ids(4, 4),
        text_position_ids(8),
    )
    with torch.inference_mode():
        plain = module(*given)
        assert _resident_bytes(file) > 0.9 * size
        assert page_streaming.stream(module)
        seen = []
        for block in module.single_blocks:
            block.register_forward_hook(lambda *_: seen.append(_resident_bytes(file)))
        module(*given)
        made = module(*given)
    assert torch.equal(made, plain)
    # a block in use and the next: 29 % of this file, and what is no block: 16 %; 35 to 45 % seen
    assert max(seen[len(seen) // 2 :]) < 0.6 * size


def test_streamed_picture_is_the_same(tmp_path: Path) -> None:
    folder = tiny.saved(tmp_path / "klein")
    pictures = [
        load_sampler(folder, device="cpu", dtype="float32", offload=offload)
        .generate("a cat", **FIELDS)
        .images[0]
        .image.tobytes()
        for offload in ("none", "block")
    ]
    assert pictures[0] == pictures[1]


def test_memory_that_is_no_files_is_left_alone() -> None:
    module = torch.nn.Sequential(torch.nn.ModuleList([torch.nn.Linear(300, 300)]))
    before = module[0][0].weight.clone()
    assert not page_streaming.stream(module)
    assert torch.equal(module[0][0].weight, before)
