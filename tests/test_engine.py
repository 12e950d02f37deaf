"""Requests share passes and are what they would be alone; nobody starves, stalls or kills others."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kleinod
from kleinod.engine import (
    Cancelled,
    Engine,
    EngineOptions,
    Event,
    Failed,
    Finished,
    Mailbox,
    Progress,
    Started,
)
from kleinod.errors import EngineClosedError, InputError, QueueFullError
from kleinod.pipeline import Pipeline
from kleinod.request import Request

SECONDS = 60


@pytest.fixture
def pipeline(tiny_model: Path) -> Pipeline:
    return kleinod.load(tiny_model, device="cpu", dtype="float32")


@pytest.fixture
def gate(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> "Gate":
    return Gate(pipeline, monkeypatch)


class Gate:
    """Holds every pass back until it is let through; remembers how many pictures each had."""

    def __init__(self, pipeline: Pipeline, patch: pytest.MonkeyPatch) -> None:
        self.passes: list[int] = []
        self._allowed = threading.Semaphore(0)
        self._arrived = threading.Semaphore(0)
        transformer = pipeline.residents.use("transformer")
        forward = transformer.forward

        def held(tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
            self.passes.append(len(tokens))
            self._arrived.release()
            assert self._allowed.acquire(timeout=SECONDS)
            return forward(tokens, *others)

        patch.setattr(transformer, "forward", held)

    def wait(self) -> None:
        """Until the next pass stands at the gate."""
        assert self._arrived.acquire(timeout=SECONDS)

    def open(self, passes: int = 10_000) -> None:
        """Let passes through."""
        self._allowed.release(passes)


def small(prompt: str = "a", **fields: object) -> Request:
    return Request(prompt, **{"width": 64, "height": 64, "num_inference_steps": 2, **fields})


def end(mailbox: Mailbox) -> Event:
    while True:
        event = mailbox.get(SECONDS)
        if isinstance(event, Finished | Failed | Cancelled):
            return event


def difference(first: Image.Image, second: Image.Image) -> int:
    pair = [np.asarray(image, dtype=int) for image in (first, second)]
    return int(np.abs(pair[0] - pair[1]).max())


def test_events_of_a_request_alone(pipeline: Pipeline) -> None:
    mailbox: Mailbox = Mailbox()
    events: list[Event] = []
    with Engine(pipeline) as engine:
        ticket = engine.submit(small(num_images=2, seed=4), on_event=events.append)
        engine.submit(small(), on_event=mailbox.put)
        assert isinstance(end(mailbox), Finished)
    assert ticket.seeds == [4, 5]
    assert [type(event) for event in events] == [Started, Progress, Progress, Finished]
    assert [(e.index, e.num_steps) for e in events if isinstance(e, Progress)] == [(2, 4), (4, 4)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [image.seed for image in finished.images] == [4, 5]
    stages = ("queue", "text", "encode", "denoise", "decode", "total")
    assert finished.timings.keys() == {f"{stage}_seconds" for stage in stages}
