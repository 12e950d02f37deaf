"""Places go to the key that was given least; within a key to the oldest that has room."""

import pytest
from PIL import Image

from kleinod.diffusion.denoising import Shape
from kleinod.engine.events import Subscriber
from kleinod.engine.jobs import Job
from kleinod.engine.queue import FairQueue
from kleinod.errors import QueueFullError
from kleinod.request import ResolvedRequest

SMALL, LARGE = Shape(4, 4, (), 16, False), Shape(16, 16, ((4, 4),), 16, True)


def job(key: str, shape: Shape = SMALL, *, num_images: int = 1, steps: int = 2) -> Job:
    request = ResolvedRequest(
        prompts=("a",),
        references=(Image.new("RGB", (64, 64)),),
        width=64,
        height=64,
        num_inference_steps=steps,
        guidance_scale=1.0,
        negative_prompt="",
        seed=0,
        num_images=num_images,
    )
    return Job(request, shape, key, Subscriber(None))


def queue(*jobs: Job, capacity: int = 100) -> FairQueue:
    made = FairQueue(capacity)
    for waiting in jobs:
        made.add(waiting)
    return made


def taken(made: FairQueue, count: int) -> str:
    """Keys of the next pictures, one place free at a time."""
    keys = ""
    for _ in range(count):
        (turn,) = made.turns(1, lambda shape: 1)
        made.take(turn)
        keys += turn.key
    return keys


def test_keys_get_every_other_place() -> None:
    made = queue(*[job("a") for _ in range(6)], job("b"), job("b"))
    assert taken(made, 8) == "ababaaaa"


def test_a_key_that_comes_late_gets_no_more_than_its_share() -> None:
    made = queue(*[job("a") for _ in range(20)])
    taken(made, 10)
    for _ in range(5):
        made.add(job("b"))
    assert taken(made, 6) in ("ababab", "bababa")


def test_a_key_that_comes_again_waits_for_one_place_at_most() -> None:
    made = queue(*[job("a") for _ in range(20)])
    for _ in range(4):
        made.add(job("b"))
        assert "b" in taken(made, 2)


def test_work_counts_not_requests() -> None:
    made = queue(job("a", LARGE), *[job("b") for _ in range(40)], job("a"))
    keys = taken(made, 42)
    # 288 tokens twice a step against 32 once
    assert keys.startswith("a" + "b" * 18) and keys.count("a") == 2


def test_the_oldest_with_room_goes_first() -> None:
    first, second, third = job("a", LARGE), job("a"), job("a")
    made = queue(first, second, third)
    room = {SMALL: 5, LARGE: 0}
    assert made.turns(10, lambda shape: room[shape]) == [second, third]
    room = {SMALL: 1, LARGE: 1}
    assert made.turns(10, lambda shape: room[shape]) == [first, second]
    assert len(made) == 3


def test_a_request_takes_a_place_for_each_picture() -> None:
    several = job("a", num_images=3)
    made = queue(several, job("b"))
    assert [turn.key for turn in made.turns(9, lambda shape: 9)] == ["a", "b", "a", "a"]
    assert [made.take(several) for _ in range(3)] == [0, 1, 2]
    assert len(made) == 1


def test_a_removed_request_is_gone() -> None:
    gone = job("a")
    made = queue(gone, capacity=1)
    with pytest.raises(QueueFullError, match="queue: 1 requests wait"):
        made.add(job("b"))
    made.remove(gone)
    made.remove(gone)
    made.add(job("b"))
    assert taken(made, 1) == "b"
