"""What a served model does not know, in the words of each API, and the list of what it knows."""

import pytest
from http_pictures import as_base64, picture
from http_server import Server, finished

from kleinod.request_warnings import RequestWarning
from kleinod.server.api import request_warnings

HEADER = "X-Kleinod-Warning"
NATIVE = {"width": 128, "height": 128, "steps": 1, "seed": 7}
KNIGHT = "mini does not know: knight. It knows 121 objects: GET /v1/vocabulary"


def test_a_bfl_task_has_header_and_details(server: Server) -> None:
    with server.client() as client:
        answer = client.post("/v1/flux-2-klein-4b", json={"prompt": "a knight", **NATIVE})
        end = finished(client, answer.json()["polling_url"])
    assert answer.headers[HEADER] == KNIGHT
    (warning,) = end["details"]["warnings"]
    assert end["status"] == "Ready"
    assert warning == {
        "code": "unknown_words",
        "words": ["knight"],
        "nearest": {},
        "message": KNIGHT,
    }


def test_a_known_prompt_has_neither(server: Server) -> None:
    with server.client() as client:
        answer = client.post("/v1/mini", json={"prompt": "an owl on black", **NATIVE})
        end = finished(client, answer.json()["polling_url"])
        images = client.post(
            "/v1/images/generations", json={"prompt": "a fox", "size": "128x128", "steps": 1}
        )
    assert HEADER not in answer.headers and end["details"] is None
    assert HEADER not in images.headers and "warnings" not in images.json()


def test_words_of_edits_are_known_where_there_is_a_reference(server: Server) -> None:
    body = {"prompt": "make it smaller", **NATIVE}
    edit = body | {"input_image": as_base64(picture(size=(128, 128)))}
    with server.client() as client:
        assert "only from edits" in client.post("/v1/mini", json=body).headers[HEADER]
        assert HEADER not in client.post("/v1/mini", json=edit).headers


@pytest.mark.parametrize(
    ("prompt", "size", "code"),
    [
        ("ein Fuchs", "128x128", "unknown_words"),
        ("a fox", "512x512", "size"),
        (", ".join(["a fox on a blue background"] * 9), "128x128", "prompt_too_long"),
    ],
)
def test_openais_answer_has_header_and_field(
    server: Server, prompt: str, size: str, code: str
) -> None:
    body = {"prompt": prompt, "size": size, "steps": 1, "seed": 7}
    with server.client() as client:
        answer = client.post("/v1/images/generations", json=body)
        accept = {"Accept": "image/png"}
        file = client.post("/v1/images/generations", json=body, headers=accept)
        streamed = client.post("/v1/images/generations", json=body | {"stream": True})
    (warning,) = answer.json()["warnings"]
    assert warning["code"] == code
    for one in (answer, file, streamed):
        assert one.status_code == 200 and one.headers[HEADER] == warning["message"]


def test_the_vocabulary_is_listed(server: Server) -> None:
    with server.client() as client:
        known = client.get("/v1/vocabulary", params={"model": "mini"}).json()
        first = client.get("/v1/vocabulary").json()
        absent = client.get("/v1/vocabulary", params={"model": "nope"})
    assert first == known and known["model"] == "mini" and known["is_limited"]
    assert len(known["objects"]) == 121 and {"name": "fox", "plural": "foxes"} in known["objects"]
    assert known["native_sizes"] == [[128, 128]] and known["max_text_tokens"] == 32
    assert "a fox on a blue background" in known["examples"]
    assert absent.status_code == 404 and "nope" in absent.json()["detail"]


def test_the_page_loads_its_hints(server: Server) -> None:
    with server.client() as client:
        page, script = client.get("/").text, client.get("/page/hints.js")
    assert 'src="page/hints.js"' in page and 'id="hints"' in page
    assert script.headers["content-type"].startswith("text/javascript")


@pytest.mark.parametrize("word", ["狐狸", "füchse", "🦊", "x" * 3000])
def test_any_word_fits_into_a_header(word: str) -> None:
    (line,) = request_warnings.headers([RequestWarning("code", f"unknown: {word}")]).values()
    assert line.isascii() and line.isprintable() and len(line) <= 2000


def test_details_of_a_task_without_a_picture_stay_as_they_were() -> None:
    warning = RequestWarning("size", "too small", {"width": 16})
    listed = [{"code": "size", "width": 16, "message": "too small"}]
    assert request_warnings.details(None, []) is None
    assert request_warnings.details({"error": "x"}, []) == {"error": "x"}
    assert request_warnings.details(None, [warning]) == {"warnings": listed}
    assert request_warnings.details({"error": "x"}, [warning]) == {"error": "x"}
