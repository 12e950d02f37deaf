"""OpenAI's Images API, spoken to a real server without its client: bodies to the last field."""

import base64
import contextlib
import http.client
import io
import json
import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from http_pictures import picture
from http_server import Server, num_jobs, wait_until
from PIL import Image

from kleinod.server.api.context import ALIASES

PAINT = "/v1/images/generations"
EDIT = "/v1/images/edits"
SMALL = {"prompt": "a fox", "size": "64x64", "steps": 1, "seed": 7}
USAGE = {
    *("input_tokens", "output_tokens", "total_tokens"),
    *("input_tokens_details", "output_tokens_details"),
}


def opened(text: str) -> Image.Image:
    """The picture in base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def events(lines: list[str]) -> list[tuple[str, dict[str, Any]]]:
    """Names and data of server-sent events."""
    names = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    return list(zip(names, data, strict=True))


def test_answer_has_every_field(server: Server) -> None:
    with server.client() as client:
        body = client.post(PAINT, json=SMALL | {"n": 2}).json()
    assert set(body) == {
        *("created", "background", "output_format", "quality", "size", "data", "usage", "warnings")
    }
    assert [one["code"] for one in body["warnings"]] == ["size"]  # mini's is 128 x 128
    assert (body["background"], body["output_format"], body["size"]) == ("opaque", "png", "64x64")
    assert abs(body["created"] - time.time()) < 600
    assert [set(one) for one in body["data"]] == [{"b64_json"}] * 2
    pictures = [opened(one["b64_json"]) for one in body["data"]]
    assert [(one.format, one.size) for one in pictures] == [("PNG", (64, 64))] * 2
    assert pictures[0].tobytes() != pictures[1].tobytes()
    assert set(body["usage"]) == USAGE
    assert body["usage"]["output_tokens"] == 2 * 16
    assert body["usage"]["input_tokens_details"]["image_tokens"] == 0


@pytest.mark.parametrize(("format", "compression"), [("jpeg", 5), ("webp", 5)])
def test_output_compression_makes_files_smaller(
    server: Server, format: str, compression: int
) -> None:
    sizes = []
    with server.client() as client:
        for quality in (100, compression):
            wanted = {"output_format": format, "output_compression": quality}
            body = client.post(PAINT, json=SMALL | wanted).json()
            assert opened(body["data"][0]["b64_json"]).format == format.upper()
            sizes.append(len(body["data"][0]["b64_json"]))
    assert sizes[1] < sizes[0]


def test_url_instead_of_base64(server: Server) -> None:
    with server.client() as client:
        body = client.post(PAINT, json=SMALL | {"response_format": "url"}).json()
        assert set(body["data"][0]) == {"url"}
        assert client.get(body["data"][0]["url"]).headers["content-type"] == "image/png"


def test_accept_asks_for_the_file_itself(server: Server) -> None:
    with server.client(headers={"Accept": "image/webp"}) as client:
        answer = client.post(PAINT, json=SMALL)
        assert Image.open(io.BytesIO(answer.content)).format == "WEBP"
        assert (answer.headers["content-type"], answer.headers["x-seed"]) == ("image/webp", "7")
        assert client.post(PAINT, json=SMALL | {"n": 2}).status_code == 400


def test_low_quality_takes_half_the_steps(server: Server) -> None:
    wish = {"prompt": "a fox", "size": "64x64", "seed": 7}
    with server.client() as client:
        low = client.post(PAINT, json=wish | {"quality": "low"}).json()
        half = client.post(PAINT, json=wish | {"steps": 2}).json()
        auto = client.post(PAINT, json=wish).json()
    first, second, third = (
        opened(one["data"][0]["b64_json"]).tobytes() for one in (low, half, auto)
    )
    assert first == second != third
    assert (low["quality"], auto["quality"]) == ("low", "high")


@pytest.mark.parametrize("part", ["image", "image[]"])
def test_edit_takes_pictures_under_both_names(server: Server, part: str) -> None:
    files = [(part, ("a.png", picture(size=(100, 70)))), (part, ("b.jpg", picture(format="JPEG")))]
    with server.client() as client:
        data = {"prompt": "both", "steps": "1", "seed": "7"}
        body = client.post(EDIT, data=data, files=files).json()
    assert body["size"] == "96x64"
    # 96 x 64 and 96 x 80 pixels in tokens of 16 x 16
    assert body["usage"]["input_tokens_details"]["image_tokens"] == 24 + 30


@pytest.mark.parametrize("partial_images", [0, 1, 3])
def test_stream_has_the_documented_events(server: Server, partial_images: int) -> None:
    wish = SMALL | {"stream": True, "partial_images": partial_images, "steps": 8}
    with server.client() as client, client.stream("POST", PAINT, json=wish) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = events(list(stream.iter_lines()))
    *partial, (name, completed) = told
    common = {"type", "b64_json", "background", "created_at", "output_format", "quality", "size"}
    assert name == completed["type"] == "image_generation.completed"
    assert set(completed) == common | {"usage"}
    assert opened(completed["b64_json"]).size == (64, 64)
    # a preview may be overtaken by the next step, never by another preview
    assert len(partial) <= partial_images
    for index, (name, data) in enumerate(partial):
        assert name == data["type"] == "image_generation.partial_image"
        assert set(data) == common | {"partial_image_index"}
        assert data["partial_image_index"] == index
        assert (opened(data["b64_json"]).format, opened(data["b64_json"]).size) == ("PNG", (64, 64))


def test_edit_streams_under_its_own_name(server: Server) -> None:
    # an edit of noise: some seeds give what the filter of drawings takes for skin
    data = {"prompt": "make the background blue", "stream": "true", "seed": "1"}
    data |= {"partial_images": "2", "steps": "4"}
    files = {"image": ("a.png", picture())}
    with server.client() as client, client.stream("POST", EDIT, data=data, files=files) as stream:
        told = events(list(stream.iter_lines()))
    assert told[-1][0] == "image_edit.completed"
    assert {name for name, _ in told[:-1]} <= {"image_edit.partial_image"}


def _refused(answer: httpx2.Response, status: int, param: str | None, code: str) -> None:
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert (error["type"], error["param"], error["code"]) == ("invalid_request_error", param, code)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": None}, "prompt", "invalid_value"),
        ({"colour": "red"}, "colour", "unknown_parameter"),
        ({"n": 0}, "n", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"size": "64"}, "size", "invalid_value"),
        ({"size": "65x64"}, "size", "invalid_value"),
        ({"size": "9999x9999"}, "size", "invalid_value"),
        ({"quality": "best"}, "quality", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"output_format": "gif"}, "output_format", "invalid_value"),
        ({"output_compression": 101}, "output_compression", "invalid_value"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"partial_images": 4}, "partial_images", "invalid_value"),
        ({"stream": "perhaps"}, "stream", "invalid_value"),
    ],
)
def test_wrong_parameter_is_named(
    server: Server, fields: dict[str, Any], param: str, code: str
) -> None:
    with server.client() as client:
        _refused(client.post(PAINT, json=SMALL | fields), 400, param, code)


def test_missing_model_prompt_and_picture(server: Server) -> None:
    with server.client() as client:
        _refused(client.post(PAINT, json={}), 400, "prompt", "missing_required_parameter")
        answer = client.post(PAINT, json=SMALL | {"model": "stable-image-2"})
        _refused(answer, 404, "model", "model_not_found")
        answer = client.post(EDIT, data={"prompt": "a"})
        _refused(answer, 400, "image", "missing_required_parameter")
        answer = client.post(PAINT, content=b"{", headers={"Content-Type": "application/json"})
        _refused(answer, 400, None, "invalid_json")


def test_mask_is_refused_clearly(server: Server) -> None:
    files = {"image": ("a.png", picture()), "mask": ("m.png", picture("RGBA"))}
    with server.client() as client:
        answer = client.post(EDIT, data={"prompt": "a"}, files=files)
    _refused(answer, 400, "mask", "unsupported_parameter")
    assert "leave it out" in answer.json()["error"]["message"]


def test_over_the_limits_is_422(server: Server) -> None:
    with server.client() as client:
        answer = client.post(PAINT, json=SMALL | {"prompt": "a" * 32_769})
        _refused(answer, 422, "prompt", "string_too_long")
        nine = [("image[]", ("a.png", picture()))] * 9
        answer = client.post(EDIT, data={"prompt": "a"}, files=nine)
        _refused(answer, 422, "image", "invalid_value")
        answer = client.post(EDIT, data={"prompt": "a"}, files={"image": ("a.png", b"no picture")})
        _refused(answer, 422, "image", "invalid_value")


def test_models_are_listed(server: Server) -> None:
    with server.client() as client:
        body = client.get("/v1/models").json()
        first, *others = body["data"]
        assert (body["object"], first["id"], first["root"]) == ("list", "mini", "mini")
        assert {(one["id"], one["root"]) for one in others} == {(name, "mini") for name in ALIASES}
        for one in body["data"]:
            assert client.get(f"/v1/models/{one['id']}").json() == one
        refused = client.get("/v1/models/sd-3").json()["error"]
        assert refused["code"] == "model_not_found"
        assert all(one["id"] in refused["message"] for one in body["data"])


def test_client_that_leaves_frees_its_place(server: Server) -> None:
    # far longer than a client takes to leave
    wish = {"prompt": "a fox", "size": "512x512", "steps": 100}
    with server.client() as client:
        cancelled = num_jobs(client, "cancelled")
        with client.stream("POST", PAINT, json=wish | {"stream": True, "partial_images": 3}):
            wait_until(lambda: num_jobs(client, "running"), "the streamed job to run")
        wait_until(lambda: num_jobs(client, "cancelled") == cancelled + 1, "its cancellation")
        with contextlib.closing(http.client.HTTPConnection(urlsplit(server.url).netloc)) as leaving:
            headers = {"Content-Type": "application/json"}
            leaving.request("POST", PAINT, json.dumps(wish), headers)
            wait_until(lambda: num_jobs(client, "running"), "the plain job to run")
        wait_until(lambda: num_jobs(client, "cancelled") == cancelled + 2, "its cancellation")
        assert num_jobs(client, "running", "pending") == 0


def test_stopped_prompt_is_moderation_blocked(server: Server) -> None:
    wish = SMALL | {"prompt": "explicit porn"}
    with server.client() as client:
        answer = client.post(PAINT, json=wish)
        with client.stream("POST", PAINT, json=wish | {"stream": True}) as stream:
            told = events(list(stream.iter_lines()))
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("image_generation_user_error", "moderation_blocked")
    assert "sexual" in error["message"]
    assert told == [("error", {"type": "error", "error": error})]
