"""A function of tensors recorded once for each shape and replayed: no launch costs, one CPU call.

A recording reads its inputs from buffers of its own and leaves its outputs in others, so inputs are
copied in and outputs out. Weights must stay where they were when it was recorded. Anything that
cannot be recorded runs as it is, and one log line says so.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

# each holds the activations of its shape
MAX_RECORDINGS = 4
# runs before recording: kernels are chosen and compiled, caches filled
_WARM_UPS = 3

Compute = Callable[..., Tensor]
# from a function without arguments to one that does the same again, into the same output
Recorder = Callable[[Callable[[], Tensor]], tuple[Callable[[], None], Tensor]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Recording:
    inputs: tuple[Tensor, ...]
    replay: Callable[[], None]
    output: Tensor


class GraphRunner:
    """Stands in for `compute`, whose arguments are tensors; equal shapes are replayed."""

    def __init__(
        self, compute: Compute, device: torch.device, record: Recorder | None = None
    ) -> None:
        """device: where inputs are brought first; a recording cannot copy from the host."""
        self._compute, self._device = compute, device
        self._record = record or CudaRecorder()
        self._recordings: OrderedDict[Any, _Recording] = OrderedDict()
        self._is_plain = False

    def __call__(self, *inputs: Tensor) -> Tensor:
        """compute(*inputs); the result is the caller's own."""
        if self._is_plain:
            return self._compute(*inputs)
        inputs = tuple(x.to(self._device, non_blocking=True) for x in inputs)
        key = tuple((x.shape, x.dtype) for x in inputs)
        try:
            recording = self._recordings.get(key) or self._recorded(key, inputs)
        except (RuntimeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            _log.warning("no graph can be recorded (%s): running without", reason)
            self._is_plain = True
            self._recordings.clear()
            return self._compute(*inputs)
        self._recordings.move_to_end(key)
        for buffer, value in zip(recording.inputs, inputs, strict=True):
            buffer.copy_(value, non_blocking=True)
        recording.replay()
        return recording.output.clone()

    def _recorded(self, key: object, inputs: tuple[Tensor, ...]) -> _Recording:
        buffers = tuple(x.clone() for x in inputs)
        replay, output = self._record(lambda: self._compute(*buffers))
        self._recordings[key] = _Recording(buffers, replay, output)
        while len(self._recordings) > MAX_RECORDINGS:
            self._recordings.popitem(last=False)
        return self._recordings[key]


class CudaRecorder:
    """Records CUDA graphs that share one pool of memory: only one of them runs at a time."""

    def __init__(self) -> None:
        self._pool: Any = None

    def __call__(self, compute: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """The replay and its output. Raises RuntimeError where nothing can be recorded."""
        if not torch.cuda.is_available():
            raise RuntimeError("no CUDA card")
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(_WARM_UPS):
                compute()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            output = compute()
        return graph.replay, output


def record_forward(module: nn.Module, device: torch.device) -> None:
    """Replay a component's forward instead of computing it, as far as it can be recorded."""
    setattr(module, "forward", GraphRunner(module.forward, device))  # noqa: B010 - of one object
