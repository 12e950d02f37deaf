"""The memory that a pass's blocks share: cut anew for each, let go with the pass."""

import threading

import torch
from torch import nn

from kleinod.compute import workspace


def _addresses(*shapes: tuple[int, ...]) -> list[int]:
    workspace.again()
    made = [workspace.empty(shape, torch.bfloat16) for shape in shapes]
    assert [tensor.shape for tensor in made] == list(shapes)
    return [tensor.data_ptr() for tensor in made]


def test_every_block_gets_the_same_memory_once_it_is_large_enough() -> None:
    with workspace.kept(True):
        _addresses((3, 5), (7, 2))
        first = _addresses((3, 5), (7, 2))
        assert first == _addresses((3, 5), (7, 2))
        assert first[1] - first[0] == 64  # 30 bytes, aligned
        _addresses((3, 5), (7, 200))
        assert len(set(_addresses((3, 5), (7, 200)))) == 2


def test_what_finds_no_room_overlaps_nothing() -> None:
    with workspace.kept(True):
        _addresses((8,))
        workspace.again()
        tensors = [workspace.empty((8,), torch.float32).fill_(i) for i in range(4)]
        assert all((tensor == i).all() for i, tensor in enumerate(tensors))


def test_outside_of_a_pass_and_in_another_thread_memory_is_fresh() -> None:
    others: list[bool] = []

    def look() -> None:
        workspace.again()
        a, b = (workspace.empty((64,), torch.float32).fill_(i) for i in range(2))
        workspace.again()
        workspace.empty((64,), torch.float32).fill_(9)
        others.append(bool((a == 0).all() and (b == 1).all()))

    look()
    with workspace.kept(True):
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
    with workspace.kept(False):
        look()
    assert others == [True, True, True]


def test_a_product_has_the_linears_bits_and_its_hooks_still_run() -> None:
    torch.manual_seed(0)
    plain = nn.Linear(96, 160, bias=False).bfloat16()
    x = torch.randn(37, 96).bfloat16()
    with torch.inference_mode(), workspace.kept(True):
        for _ in range(2):
            workspace.again()
            assert torch.equal(workspace.product(plain, x), plain(x))

        class Doubled(nn.Linear):
            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return 2 * super().forward(x)

        other = Doubled(96, 160, bias=False).bfloat16()
        assert torch.equal(workspace.product(other, x), other(x))
        calls: list[int] = []
        plain.register_forward_hook(lambda *_: calls.append(1))
        workspace.product(plain, x)
        assert calls == [1]
        with_bias = nn.Linear(96, 160).bfloat16()
        assert torch.equal(workspace.product(with_bias, x), with_bias(x))
