"""Previews show the picture that comes, from latents alone."""

import numpy as np
import pytest
import torch
from PIL import Image

from kleinod.diffusion import preview
from kleinod.diffusion.loading import load_sampler
from kleinod.diffusion.sampler import Sampler
from kleinod.engine import Engine, Event, Finished, Mailbox, Progress
from kleinod.request import ImageRequest

PROMPTS = ("a fox on a blue background", "a cat on a black background", "a tree, 3D style")


@pytest.fixture(scope="module")
def mini() -> Sampler:
    return load_sampler("mini", device="cpu", dtype=torch.float32)


def _decibels(first: Image.Image, second: Image.Image) -> float:
    difference = np.asarray(first, dtype=float) - np.asarray(second, dtype=float)
    return 10 * np.log10(255**2 / np.mean(difference**2))


def test_previews_come_nearer_to_the_picture(mini: Sampler) -> None:
    """Means over three pictures, against the finished one made small; seen: 15.9, 19.5, 22.6 dB."""
    told: list[list[Event]] = [[] for _ in PROMPTS]
    with Engine(mini) as engine:
        for seed, prompt in enumerate(PROMPTS):
            request = ImageRequest(prompt, seed=seed)
            engine.submit(request, on_event=told[seed].append, with_previews=True)
    quality = []
    for events in told:
        previews = [event.preview for event in events if isinstance(event, Progress)]
        assert [image and image.size for image in previews] == [(32, 32)] * 3 + [None]
        small = events[-1].images[0].image.reduce(4)
        quality.append([_decibels(image, small) for image in previews[:3]])
    first, _, last = np.mean(quality, axis=0)
    assert first > 14 and last > 21


def test_nobody_pays_for_previews_unasked(mini: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "fitted", lambda encode: 1 / 0)
    mailbox = Mailbox()
    with Engine(mini) as engine:
        engine.submit(ImageRequest("a"), on_event=mailbox.put)
    assert all(e.preview is None for e in mailbox if isinstance(e, Progress))


def test_no_preview_is_no_obstacle(mini: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preview, "fitted", lambda encode: 1 / 0)
    mailbox = Mailbox()
    with Engine(mini) as engine:
        engine.submit(ImageRequest("a"), on_event=mailbox.put, with_previews=True)
    *_, last = mailbox
    assert isinstance(last, Finished)


def test_a_flat_picture_has_its_colour(mini: Sampler) -> None:
    """The mean over the preview; seen: 35 levels off in red, 17 at most in the others."""
    fitted = preview.fitted(mini.encode_references)
    for colour in ((200, 60, 60), (40, 90, 200), (240, 240, 240), (10, 10, 10)):
        tokens = mini.encode_references([Image.new("RGB", (128, 128), colour)])
        latents = tokens.transpose(1, 2).unflatten(2, (8, 8))
        shown = np.asarray(fitted.picture(latents), dtype=float)
        assert np.abs(shown.mean((0, 1)) - colour).max() < 50
