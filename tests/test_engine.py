"""Requests share passes, and each gets what it would get alone; nobody starves or kills others."""

import random
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kleinod.diffusion import latents
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
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
from kleinod.engine.events import SLOW_SECONDS
from kleinod.errors import EngineClosedError, InputError, QueueFullError
from kleinod.request import ImageRequest

SECONDS = 60

NOT_FINITE = "step 1: latents are not finite; "


class Gate:
    """Holds every pass back until it is let through; remembers how many pictures each had."""

    def __init__(self, pipeline: Sampler, patch: pytest.MonkeyPatch) -> None:
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


@pytest.fixture
def pipeline(tiny_model: Path) -> Sampler:
    return load_sampler(tiny_model, device="cpu", dtype="float32")


@pytest.fixture
def gate(pipeline: Sampler, monkeypatch: pytest.MonkeyPatch) -> Gate:
    return Gate(pipeline, monkeypatch)


def small(prompt: str = "a", **fields: object) -> ImageRequest:
    return ImageRequest(prompt, **{"width": 64, "height": 64, "num_inference_steps": 2, **fields})


def end(mailbox: Mailbox) -> Event:
    while True:
        event = mailbox.get(SECONDS)
        if isinstance(event, Finished | Failed | Cancelled):
            return event


def picture(mailbox: Mailbox) -> Image.Image:
    event = end(mailbox)
    assert isinstance(event, Finished), event
    return event.images[0].image


def difference(first: Image.Image, second: Image.Image) -> int:
    pair = [np.asarray(image, dtype=int) for image in (first, second)]
    return int(np.abs(pair[0] - pair[1]).max())


def submitted(engine: Engine, *requests: ImageRequest, key: str = "") -> list[Mailbox]:
    mailboxes = [Mailbox() for _ in requests]
    for request, mailbox in zip(requests, mailboxes, strict=True):
        engine.submit(request, key=key, on_event=mailbox.put)
    return mailboxes


def test_events_of_a_request(pipeline: Sampler) -> None:
    events: list[Event] = []
    with Engine(pipeline) as engine:
        ticket = engine.submit(small(num_images=2, seed=4), on_event=events.append)
    assert ticket.seeds == [4, 5]
    assert [type(event) for event in events] == [Started, Progress, Progress, Finished]
    assert [(e.index, e.num_steps) for e in events if isinstance(e, Progress)] == [(2, 4), (4, 4)]
    finished = events[-1]
    assert isinstance(finished, Finished)
    assert [image.seed for image in finished.images] == [4, 5]
    stages = ("queue", "text", "encode", "denoise", "decode", "total")
    assert finished.timings.keys() == {f"{stage}_seconds" for stage in stages}


def test_a_new_request_joins_at_the_next_step(pipeline: Sampler, gate: Gate) -> None:
    with Engine(pipeline) as engine:
        (first,) = submitted(engine, small())
        gate.wait()
        others = submitted(engine, small(num_inference_steps=3), small("b", seed=1))
        gate.open()
        for mailbox in (first, *others):
            assert isinstance(end(mailbox), Finished)
        stats = engine.stats()
    assert gate.passes == [1, 3, 2, 1]
    assert (stats.steps_total, stats.passes_total, stats.pictures_total) == (7, 4, 3)
    assert (stats.queued, stats.running, stats.last_batch) == (0, 0, 1)


@pytest.mark.parametrize("is_distilled", [True, False], ids=["distilled", "guided"])
def test_shared_passes_give_what_each_gets_alone(tmp_path: Path, is_distilled: bool) -> None:
    """Float32, in other company at each step, within one grey level; seen: 1.

    The sums of a larger matrix run in another order, and the last rounding may fall either way.
    """
    from tiny_folder import save_tiny_model

    model = save_tiny_model(tmp_path / "m", is_distilled=is_distilled)
    pipeline = load_sampler(model, device="cpu", dtype="float32")
    guidance = [None] * 3 if is_distilled else [3.3, 5.0, 2.0]
    reference = Image.effect_mandelbrot((80, 64), (-2, -1.5, 1, 1.5), 9).convert("RGB")
    requests = [
        small(f"{i}", seed=i, num_inference_steps=2 + i, guidance_scale=guidance[i], **more)
        for i in range(3)
        for more in ({}, {"reference_images": (reference.rotate(90 * i),)})
    ]
    alone = [pipeline.generate(**vars(request)).images[0].image for request in requests]
    with Engine(pipeline) as engine:
        mailboxes = submitted(engine, *requests)
        together = [picture(mailbox) for mailbox in mailboxes]
        assert engine.stats().passes_total < engine.stats().steps_total
    pairs = zip(alone, together, strict=True)
    assert max(difference(*pair) for pair in pairs) <= 1


def test_without_batching_pictures_are_bit_equal_to_the_pipelines(pipeline: Sampler) -> None:
    requests = [small(f"{seed}", seed=seed) for seed in range(3)]
    alone = [pipeline.generate(**vars(request)).images[0].image for request in requests]
    with Engine(pipeline, EngineOptions(is_batching=False)) as engine:
        mailboxes = submitted(engine, *requests)
        assert [picture(m).tobytes() for m in mailboxes] == [image.tobytes() for image in alone]
        assert engine.stats().last_batch == 1
        assert engine.stats().passes_total == 6


def test_other_shapes_take_turns(pipeline: Sampler, gate: Gate) -> None:
    with Engine(pipeline) as engine:
        submitted(engine, small(num_inference_steps=50), small(num_inference_steps=50))
        gate.wait()
        (wide,) = submitted(engine, small(width=96))
        gate.open()
        assert picture(wide).size == (96, 64)
        assert engine.stats().pictures_total == 1
        engine.close(finish=False)


def test_a_request_for_many_pictures_is_painted_in_parts(pipeline: Sampler, gate: Gate) -> None:
    gate.open()
    with Engine(pipeline, EngineOptions(max_batch=2)) as engine:
        (mailbox,) = submitted(engine, ImageRequest(("a", "b"), width=64, height=64, num_images=2))
        event = end(mailbox)
    assert isinstance(event, Finished) and len(event.images) == 4
    assert gate.passes == [2, 2, 2, 2]


def test_large_pictures_do_not_share(pipeline: Sampler, gate: Gate) -> None:
    gate.open()
    tokens = 16 + pipeline.tokenizer.max_length
    with Engine(pipeline, EngineOptions(max_batch_tokens=2 * tokens)) as engine:
        for mailbox in submitted(engine, *[small(seed=i) for i in range(4)], small(width=128)):
            assert isinstance(end(mailbox), Finished)
    assert max(gate.passes) == 2


def test_fifty_requests_of_one_key_do_not_starve_another(pipeline: Sampler, gate: Gate) -> None:
    with Engine(pipeline, EngineOptions(max_batch=2)) as engine:
        submitted(engine, *[small(seed=i) for i in range(50)], key="many")
        gate.wait()
        for seed in range(3):
            (mailbox,) = submitted(engine, small(seed=seed), key="one")
            gate.open(8)
            assert isinstance(end(mailbox), Finished)
        # 4 passes each: at most 2 until a place is free, 2 of its own
        assert len(gate.passes) <= 1 + 3 * 4
        engine.stats()
        gate.open()
        engine.close(finish=False)


def test_shapes_of_one_key_do_not_starve_another(pipeline: Sampler, gate: Gate) -> None:
    """Every place is taken by one key's groups, which refill themselves."""
    with Engine(pipeline, EngineOptions(max_batch=2, max_running=4)) as engine:
        many = [small(width=64 + 16 * (i % 2), seed=i) for i in range(60)]
        submitted(engine, *many, key="many")
        gate.wait()
        (mailbox,) = submitted(engine, small(width=128), key="one")
        gate.open()
        assert picture(mailbox).size == (128, 64)
        assert engine.stats().queued > 40
        engine.close(finish=False)


def test_cancelling_frees_the_place_at_the_next_step(pipeline: Sampler, gate: Gate) -> None:
    mailboxes = [Mailbox() for _ in range(3)]
    with Engine(pipeline, EngineOptions(max_batch=1, max_running=1)) as engine:
        tickets = [
            engine.submit(small(num_inference_steps=50), on_event=m.put) for m in mailboxes[:2]
        ]
        engine.submit(small(), on_event=mailboxes[2].put)
        gate.wait()
        tickets[1].cancel()
        assert engine.stats().queued == 1
        tickets[0].cancel()
        tickets[0].cancel()
        gate.open()
        assert end(mailboxes[0]) == end(mailboxes[1]) == Cancelled()
        assert isinstance(end(mailboxes[2]), Finished)
        tickets[0].cancel()
        assert engine.stats().cancelled_total == 2
    assert len(gate.passes) == 1 + 2


def test_a_bad_request_is_refused_at_once(pipeline: Sampler) -> None:
    with Engine(pipeline) as engine, pytest.raises(InputError, match="width: 100"):
        engine.submit(small(width=100), on_event=print)
    with pytest.raises(EngineClosedError):
        engine.submit(small(), on_event=print)
    with pytest.raises(InputError, match="max_batch: 0"):
        EngineOptions(max_batch=0)


def test_a_full_queue_refuses(pipeline: Sampler, gate: Gate) -> None:
    with Engine(pipeline, EngineOptions(max_queue=2, max_batch=1, max_running=1)) as engine:
        submitted(engine, small())
        gate.wait()
        waiting = Mailbox()
        ticket = engine.submit(small(), on_event=waiting.put)
        submitted(engine, small())
        with pytest.raises(QueueFullError, match="queue: 2 requests wait"):
            submitted(engine, small())
        ticket.cancel()
        submitted(engine, small())
        gate.open()


def test_what_spoils_one_request_leaves_the_others(
    pipeline: Sampler, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = [pipeline.generate(**vars(small(seed=seed))) for seed in (gate.open(), 1, 2)[1:]]
    encode = pipeline.encode_references

    def spoiled(references: tuple[Image.Image, ...]) -> torch.Tensor:
        if references and references[0].getpixel((0, 0)) == (1, 2, 3):
            raise InputError("reference_images: it is spoiled")
        tokens = encode(references)
        return tokens * torch.nan if references else tokens

    monkeypatch.setattr(pipeline, "encode_references", spoiled)
    first = Image.new("RGB", (64, 64), (1, 2, 3))
    second = Image.new("RGB", (64, 64), "red")
    noise = latents.sample_noise

    def spoiled_noise(seeds: list[int], height: int, width: int) -> torch.Tensor:
        return noise(seeds, height, width) * (torch.nan if seeds == [13] else 1)

    monkeypatch.setattr(latents, "sample_noise", spoiled_noise)
    with Engine(pipeline) as engine:
        bad = submitted(
            engine,
            small(reference_images=(first,)),
            small(reference_images=(second,)),
            small(seed=13),
        )
        good = submitted(engine, small(seed=1), small(seed=2))
        pictures = [picture(mailbox) for mailbox in good]
        ends = [end(mailbox) for mailbox in bad]
        assert engine.stats().failures_total == 3
    assert ends[0] == Failed("reference_images: it is spoiled", is_users_fault=True)
    for failed in ends[1:3]:
        assert isinstance(failed, Failed) and failed.reason.startswith(NOT_FINITE)
    for made, result in zip(pictures, alone, strict=True):
        assert difference(made, result.images[0].image) <= 1


def test_memory_that_does_not_reach_makes_smaller_passes(
    pipeline: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformer = pipeline.residents.use("transformer")
    forward, passes = transformer.forward, []

    def narrow(tokens: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        passes.append(len(tokens))
        if len(tokens) > 3 or tokens.shape[1] > 16:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        return forward(tokens, *others)

    monkeypatch.setattr(transformer, "forward", narrow)
    with Engine(pipeline) as engine:
        (large,) = submitted(engine, small(width=128))
        mailboxes = submitted(engine, *[small(seed=seed) for seed in range(8)])
        assert all(isinstance(end(mailbox), Finished) for mailbox in mailboxes)
        told = end(large)
    assert isinstance(told, Failed) and not told.is_users_fault
    assert told.reason.startswith("memory: 128x64 needs more than is free; ask for a smaller")
    assert passes[-2:] == [2, 2]


def test_an_error_of_one_is_found_among_many(
    pipeline: Sampler, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = pipeline.decode
    marked = pipeline.generate(**vars(small(seed=3))).images[0].image

    def failing(latents: torch.Tensor) -> list[Image.Image]:
        made = decode(latents)
        if any(difference(image, marked) <= 1 for image in made):
            raise RuntimeError("a kernel of nobody's making\nand its trace")
        return made

    monkeypatch.setattr(pipeline, "decode", failing)
    with Engine(pipeline) as engine:
        mailboxes = submitted(engine, *[small(seed=seed) for seed in range(5)])
        ends = [end(mailbox) for mailbox in mailboxes]
    assert [type(event) for event in ends] == [Finished, Finished, Finished, Failed, Finished]
    assert ends[3].reason.startswith("internal: RuntimeError: a kernel of nobody's making; ")


def test_a_bad_turn_is_not_the_last(pipeline: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    from kleinod.engine.batcher import Bench

    with Engine(pipeline) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Bench, "step", lambda self: 1 / 0)
            (mailbox,) = submitted(engine, small())
            assert isinstance(end(mailbox), Failed)
        (mailbox,) = submitted(engine, small())
        assert isinstance(end(mailbox), Finished)


def test_a_subscriber_that_raises_is_dropped(
    pipeline: Sampler, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[Event] = []

    def rude(event: Event) -> None:
        told.append(event)
        raise ValueError("no")

    with Engine(pipeline) as engine:
        engine.submit(small(), on_event=rude)
        (mailbox,) = submitted(engine, small())
        assert isinstance(end(mailbox), Finished)
    assert told == [Started()]
    assert "a subscriber raised at Started" in caplog.text


def test_a_slow_subscriber_is_told_only_the_end(pipeline: Sampler) -> None:
    told: list[Event] = []

    def slow(event: Event) -> None:
        told.append(event)
        threading.Event().wait(SLOW_SECONDS + 0.1)

    with Engine(pipeline) as engine:
        engine.submit(small(num_inference_steps=20), on_event=slow)
    assert [type(event) for event in told] == [Started, Finished]


def test_a_mailbox_that_nobody_reads_does_not_grow(pipeline: Sampler) -> None:
    with Engine(pipeline) as engine:
        (mailbox,) = submitted(engine, small(num_inference_steps=40))
    events = list(mailbox)
    assert [type(event) for event in events] == [Started, Progress, Finished]
    assert events[1].index == 40
    with pytest.raises(TimeoutError):
        mailbox.get(0.01)


def test_closing_finishes_or_drops(pipeline: Sampler, gate: Gate) -> None:
    gate.open()
    engine = Engine(pipeline)
    mailboxes = submitted(engine, *[small(seed=seed) for seed in range(20)])
    engine.close(finish=True)
    assert all(isinstance(end(mailbox), Finished) for mailbox in mailboxes)
    assert not engine.is_open


def test_closing_drops_at_the_next_step(pipeline: Sampler, gate: Gate) -> None:
    engine = Engine(pipeline, EngineOptions(max_batch=1))
    mailboxes = submitted(engine, small(num_inference_steps=50), small())
    gate.wait()
    closing = threading.Thread(target=engine.close, kwargs={"finish": False})
    closing.start()
    while engine.is_open:
        threading.Event().wait(0.01)
    gate.open()
    closing.join(SECONDS)
    assert [end(mailbox) for mailbox in mailboxes] == [Cancelled(by_closing=True)] * 2
    assert len(gate.passes) == 1


def test_prompts_are_encoded_once_and_together(
    pipeline: Sampler, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, calls = pipeline._encode, []

    def counted(prompts: list[str]) -> torch.Tensor:
        calls.append(prompts)
        return encode(prompts)

    monkeypatch.setattr(pipeline, "_encode", counted)
    with Engine(pipeline) as engine:
        submitted(engine, small("first", num_inference_steps=3))
        gate.wait()
        submitted(engine, *[small(prompt) for prompt in ("x", "y", "x", "first")])
        gate.open()
    assert calls == [["first"], ["x", "y"]]


def test_one_component_at_a_time_paints_in_rounds(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_sampler(tiny_model, device="cpu", dtype="float32", offload="model")
    loaded: list[str] = []
    for name, loader in dict(pipeline.residents._loaders).items():
        loading = lambda name=name, loader=loader: loaded.append(name) or loader()  # noqa: E731
        pipeline.residents._loaders[name] = loading
    with Engine(pipeline) as engine:
        first = submitted(engine, *[small(num_inference_steps=steps) for steps in (4, 2, 3)])
        assert all(isinstance(end(mailbox), Finished) for mailbox in first)
    # the first may have started alone
    one_round = ["text_encoder", "transformer", "autoencoder"]
    assert loaded in (one_round, [*one_round, "transformer", "autoencoder"])


def test_every_request_ends_once_in_a_tumult(pipeline: Sampler) -> None:
    """Four threads submit and cancel at random; the engine is closed in the middle."""
    ends: list[Counter[str]] = []
    lock = threading.Lock()

    def client(engine: Engine, number: int) -> None:
        chance = random.Random(number)
        for index in range(25):
            count: Counter[str] = Counter()
            request = small(
                f"{index % 5}",
                width=chance.choice((64, 80)),
                num_images=chance.choice((1, 1, 3)),
                num_inference_steps=chance.choice((1, 2, 5)),
            )
            try:
                ticket = engine.submit(
                    request, key=f"{number}", on_event=lambda e, c=count: c.update([type(e)])
                )
            except (QueueFullError, EngineClosedError):
                continue
            with lock:
                ends.append(count)
            if chance.random() < 0.3:
                ticket.cancel()

    engine = Engine(pipeline, EngineOptions(max_queue=40))
    clients = [threading.Thread(target=client, args=(engine, n)) for n in range(4)]
    for thread in clients:
        thread.start()
    deadline = time.monotonic() + SECONDS
    while len(ends) <= 20 or engine.stats().pictures_total < 5:
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)
    engine.close(finish=False)
    for thread in clients:
        thread.join(SECONDS)
    assert len(ends) > 20
    assert all(count[Finished] + count[Cancelled] == 1 for count in ends)
    assert all(count[Failed] == 0 and count[Started] <= 1 for count in ends)
    stats = engine.stats()
    assert (stats.queued, stats.running) == (0, 0)
