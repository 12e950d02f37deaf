"""BFL's API, spoken to a real server."""

import io
import itertools
import re
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from http_pictures import as_base64, picture
from http_server import SMALL, Server, finished, serving
from PIL import Image

KLEIN = "/v1/flux-2-klein-4b"


def submitted(client: httpx2.Client, path: str = KLEIN, **fields: object) -> dict[str, Any]:
    """A task that was taken."""
    answer = client.post(path, json=SMALL | fields)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def painted(client: httpx2.Client, path: str = KLEIN, **fields: object) -> dict[str, Any]:
    """A task's end."""
    return finished(client, submitted(client, path, **fields)["polling_url"])


def sample(client: httpx2.Client, result: dict[str, Any]) -> Image.Image:
    """The finished picture."""
    return Image.open(io.BytesIO(client.get(result["result"]["sample"]).content))


def test_task_is_taken_as_documented(server: Server) -> None:
    with server.client() as client:
        body = submitted(client)
    assert set(body) == {"id", "polling_url", "cost", "input_mp", "output_mp"}
    assert body["polling_url"] == f"{server.url}/v1/get_result?id={body['id']}"
    assert (body["cost"], body["input_mp"], body["output_mp"]) == (0, 0, 0.004)


def test_result_is_as_documented(server: Server) -> None:
    with server.client() as client:
        body = painted(client)
        picture = sample(client, body)
    assert set(body) == {"id", "status", "result", "progress", "details", "preview"}
    assert (body["status"], body["progress"]) == ("Ready", 1.0)
    assert [one["code"] for one in body["details"]["warnings"]] == ["size"]  # mini's is 128 x 128
    result = body["result"]
    assert set(result) == {"sample", "prompt", "seed", "start_time", "end_time", "duration"}
    assert (result["prompt"], result["seed"]) == ("a fox", 7)
    assert result["duration"] == pytest.approx(result["end_time"] - result["start_time"], abs=1e-3)
    assert (picture.format, picture.size) == ("JPEG", (64, 64))


@pytest.mark.parametrize("name", ["flux-2-klein-9b", "flux-2-klein-9b-preview", "mini"])
def test_other_names_are_served_by_the_loaded_model(server: Server, name: str) -> None:
    with server.client() as client:
        assert painted(client, f"/v1/{name}")["status"] == "Ready"


@pytest.mark.parametrize("output_format", ["png", "webp"])
def test_same_seed_gives_the_same_picture_in_each_format(
    server: Server, output_format: str
) -> None:
    with server.client() as client:
        first = sample(client, painted(client, output_format="png"))
        second = sample(client, painted(client, output_format=output_format))
    assert second.format == output_format.upper()
    difference = np.abs(np.asarray(first, np.int16) - np.asarray(second.convert("RGB"), np.int16))
    # the same pixels in png; webp is lossy (seen: mean 1.6 of 255)
    assert difference.mean() <= (0 if output_format == "png" else 4)


def test_picture_takes_the_first_reference_s_size(server: Server) -> None:
    first, second = picture(size=(100, 70)), picture(size=(64, 64), format="WEBP")
    with server.client() as client:
        body = client.post(
            KLEIN,
            json={
                "prompt": "both",
                "input_image": as_base64(first),
                "input_image_2": "data:image/webp;base64," + as_base64(second),
                "steps": 1,
                "seed": 7,
            },
        ).json()
        assert body["input_mp"] == pytest.approx((7000 + 4096) / 1e6, abs=1e-3)
        assert sample(client, finished(client, body["polling_url"])).size == (96, 64)


def test_aspect_ratio_keeps_the_default_area(server: Server) -> None:
    with server.client() as client:
        result = painted(client, width=0, height=0, aspect_ratio="4:1")
        assert sample(client, result).size == (256, 64)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": 5}, "prompt"),
        ({"width": 63}, "width"),
        ({"width": 65}, "width"),
        ({"height": -16}, "height"),
        ({"seed": -2}, "seed"),
        ({"seed": "many"}, "seed"),
        ({"safety_tolerance": 6}, "safety_tolerance"),
        ({"output_format": "gif"}, "output_format"),
        ({"webhook_url": ""}, "webhook_url"),
        ({"webhook_url": "ftp://example.com"}, "webhook_url"),
        ({"steps": 0}, "steps"),
        ({"steps": 101}, "steps"),
        ({"guidance": 0.5}, "guidance"),
        ({"guidance": 2.0}, "guidance"),
        ({"aspect_ratio": "wide"}, "aspect_ratio"),
        ({"width": 0, "height": 0, "aspect_ratio": "20:1"}, "aspect_ratio"),
        ({"input_image": "nothing"}, "input_image"),
        ({"input_image_8": "http://127.0.0.1/"}, "input_image_8"),
        ({"input_image_9": "a"}, "input_image_9"),
        ({"mask": "a"}, "mask"),
        ({"prompt": "a" * 32_769}, "prompt"),
    ],
)
def test_wrong_field_is_named(server: Server, fields: dict[str, Any], field: str) -> None:
    with server.client() as client:
        answer = client.post(KLEIN, json=SMALL | fields)
    assert answer.status_code == 422, answer.text
    detail = answer.json()["detail"]
    assert set(detail[0]) == {"loc", "msg", "type"}
    assert detail[0]["loc"] == ["body", field]


def test_too_large_size_is_refused(server: Server) -> None:
    with server.client() as client:
        answer = client.post(KLEIN, json=SMALL | {"width": 4096, "height": 4096})
    assert answer.status_code == 422
    assert "over 4 megapixels" in answer.json()["detail"][0]["msg"]


def test_unknown_field_is_left_aside_and_told(server: Server) -> None:
    with server.client() as client:
        answer = client.post(KLEIN, json=SMALL | {"colour": "red", "raw": False})
    assert answer.status_code == 200
    assert answer.headers["x-ignored-fields"] == "colour, raw"


def test_unknown_task_and_model(server: Server) -> None:
    with server.client() as client:
        body = client.get("/v1/get_result", params={"id": "nothing"}).json()
        assert (body["id"], body["status"]) == ("nothing", "Task not found")
        assert client.get("/v1/get_result").json()["detail"][0]["loc"] == ["query", "id"]
        answer = client.post("/v1/flux-2-pro", json=SMALL)
    assert answer.status_code == 404
    assert "mini" in answer.json()["detail"]


def test_sample_url_cannot_be_changed(server: Server) -> None:
    with server.client() as client:
        url = painted(client)["result"]["sample"]
        expires = int(re.findall(r"expires=(\d+)", url)[0])
        for wrong in (
            url.replace(f"expires={expires}", f"expires={expires + 1}"),
            re.sub(r"/[0-9-]+\.jpeg", "/9-9.jpeg", url),
            url[:-1] + ("0" if url[-1] != "0" else "1"),
            url.replace("results/", "results/../"),
        ):
            assert client.get(wrong).status_code in (403, 404), wrong
        assert client.get(url.partition("?")[0]).status_code == 422
        good = client.get(url)
    assert good.headers["content-type"] == "image/jpeg"
    assert good.headers["x-content-type-options"] == "nosniff"


def test_task_with_a_webhook_says_so(server: Server) -> None:
    with server.client() as client:
        body = submitted(client, webhook_url="https://example.com/hook", webhook_secret="s")
    assert (body["status"], body["webhook_url"]) == ("Pending", "https://example.com/hook")


def test_task_can_be_cancelled_and_its_events_end(server: Server) -> None:
    with server.client() as client:
        task = submitted(client, steps=100, width=128, height=128, previews=True)
        with client.stream("GET", f"/v1/jobs/{task['id']}/events") as stream:
            lines = stream.iter_lines()
            first = list(itertools.islice(lines, 2))
            assert first[0] == "event: progress"
            assert client.delete(f"/v1/jobs/{task['id']}").json() == {"cancelled": True}
            rest = list(lines)
        assert "event: end" in rest
        result = client.get(task["polling_url"]).json()
        assert (result["status"], result["details"]) == ("Error", {"error": "cancelled"})
        assert client.delete(f"/v1/jobs/{task['id']}").json() == {"cancelled": False}
        assert client.delete("/v1/jobs/nothing").status_code == 404


def test_stopped_prompt_is_request_moderated(server: Server) -> None:
    with server.client() as client:
        result = painted(client, prompt="explicit porn", safety_tolerance=0)
    assert (result["status"], result["result"]) == ("Request Moderated", None)
    assert result["details"] == {"Moderation Reasons": ["sexual"]}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("address", "link"),
    [
        ("help@example.org", '<a href="mailto:help@example.org">report a picture</a>'),
        ("https://example.org/?a&b", '<a href="https://example.org/?a&amp;b">report a picture</a>'),
    ],
)
def test_the_report_address_is_told(tmp_path: Path, address: str, link: str) -> None:
    (tmp_path / "safety.toml").write_text(f'report_address = "{address}"\n')
    with serving(tmp_path, home=tmp_path) as server, server.client() as client:
        result = painted(client, prompt="explicit porn", safety_tolerance=0)
        told = {"Moderation Reasons": ["sexual"], "Report a mistake to": address}
        assert result["details"] == told
        assert link in client.get("/").text
        contact = client.get("/openapi.json").json()["info"]["contact"]
        assert contact == {"name": f"Reports to {address}"}
