"""Attention by plain products: as near as bfloat16 scores are, and only where it was asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kleinod.compute import attention
from kleinod.diffusion.loading import load_sampler


def _heads(length: int, *, scale: float = 1.0, batch: int = 1) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    made = (torch.randn(batch, length, 3, 32) for _ in range(3))
    q, k, v = (x.bfloat16() for x in made)
    return (q * scale).bfloat16(), k, v


def _error(made: Tensor, heads: tuple[Tensor, ...]) -> float:
    q, k, v = (x.double().transpose(1, 2) for x in heads)
    exact = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return float((made.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("length", [512, 700])
@pytest.mark.parametrize("threads", [1, 2])
def test_rounded_scores_cost_half_a_percent(
    length: int, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "has_slow_kernel", lambda: True)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    heads = _heads(length, batch=2)
    made = attention.inexact(*heads)
    # normal numbers: 0.0045 seen, torch's own kernel 0.0022
    assert 0.003 < _error(made, heads) < 0.006
    assert _error(attention.attention(*heads), heads) < 0.003
    # nothing that was given is written to
    assert all(torch.equal(a, b) for a, b in zip(heads, _heads(length, batch=2), strict=True))


def test_large_scores_cost_more_and_stay_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "has_slow_kernel", lambda: True)
    heads = _heads(512, scale=3.0)
    assert 0.006 < _error(attention.inexact(*heads), heads) < 0.02
    huge = _heads(512, scale=1000.0)
    assert attention.inexact(*huge).isfinite().all()


@pytest.mark.parametrize(
    ("is_slow", "length", "dtype"),
    [
        (False, 512, torch.bfloat16),
        (True, 511, torch.bfloat16),
        (True, 512, torch.float32),
    ],
)
def test_elsewhere_it_is_torchs(
    is_slow: bool, length: int, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "has_slow_kernel", lambda: is_slow)
    heads = tuple(x.to(dtype) for x in _heads(length))
    assert torch.equal(attention.inexact(*heads), attention.attention(*heads))


@pytest.mark.parametrize(("quantize", "expected"), [(None, "attention"), ("int8", "inexact")])
def test_only_lossy_modes_round_scores(quantize: str | None, expected: str) -> None:
    pipeline = load_sampler("mini", device="cpu", quantize=quantize)
    transformer = pipeline.residents.use("transformer")
    blocks = (*transformer.double_blocks, *transformer.single_blocks)
    assert {block.attention for block in blocks} == {getattr(attention, expected)}
