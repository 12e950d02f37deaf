"""Clients as they are: null, odd types and names, HEAD, other models' names, pages, old probes."""

import base64
import gzip
import io
import json
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest
from http_pictures import as_base64, picture
from http_server import SMALL, Server, finished, serving
from PIL import Image
from tiny_folder import save_tiny_model

from kleinod.server.api.bfl_models import KleinInputs
from kleinod.server.api.openai_models import EditBody, GenerationInputs

KLEIN, PAINT, EDIT = "/v1/flux-2-klein-4b", "/v1/images/generations", "/v1/images/edits"
WISH: dict[str, Any] = {"prompt": "a fox", "size": "64x64", "steps": 1, "seed": 7}
JSON = {"Content-Type": "application/json"}
PAGE = "https://app.example"
FOX = picture()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[httpx2.Client]:
    with server.client() as made:
        yield made


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, own_folders: None) -> Iterator[Server]:
    """A base model, pages of one origin allowed, OpenAI's names refused, prompts in the log."""
    folder = tmp_path_factory.mktemp("base")
    model = save_tiny_model(folder / "tiny", is_distilled=False)
    settings = {"model": model, "cors_origins": json.dumps([PAGE + "/"]), "log_prompts": "true"}
    with serving(folder, accept_openai_models="false", **settings) as running:
        yield running


def message(answer: httpx2.Response) -> str:
    """The words of a refusal, in either API's form."""
    body = answer.json()
    if "error" in body:
        return str(body["error"]["message"])
    detail = body["detail"]
    return str(detail if isinstance(detail, str) else detail[0]["msg"])


def ok(answer: httpx2.Response) -> httpx2.Response:
    assert answer.status_code == 200, answer.text
    return answer


def form(client: httpx2.Client, *parts: tuple[str, bytes], kind: str = "") -> httpx2.Response:
    """An edit of which every part's head is given, with a prompt and one step."""
    words = (('name="prompt"', b"yellow"), ('name="steps"', b"1"), ('name="seed"', b"7"))
    body = b"".join(
        b"--b\r\nContent-Disposition: form-data; " + head.encode() + b"\r\n\r\n" + data + b"\r\n"
        for head, data in (*parts, *words)
    )
    headers = {"Content-Type": kind or "multipart/form-data; boundary=b"}
    return client.post(EDIT, content=body + b"--b--\r\n", headers=headers)


# null


@pytest.mark.parametrize(
    "name",
    [name for name, field in KleinInputs.model_fields.items() if not field.is_required()],
)
def test_null_is_left_out_for_bfl(client: httpx2.Client, name: str) -> None:
    task = ok(client.post(KLEIN, json=SMALL | {name: None, "previews": None})).json()
    assert finished(client, task["polling_url"])["status"] == "Ready"


def test_all_nulls_at_once_are_a_picture(client: httpx2.Client) -> None:
    nulls = dict.fromkeys(KleinInputs.model_fields) | {"mask": None, "raw": None, "future": None}
    task = ok(client.post(KLEIN, json=nulls | {"prompt": "a fox"})).json()
    result = finished(client, task["polling_url"])
    assert Image.open(io.BytesIO(client.get(result["result"]["sample"]).content)).size == (128, 128)
    nulls = dict.fromkeys(GenerationInputs.model_fields)
    ok(client.post(PAINT, json=nulls | {"prompt": "a fox"}))
    nulls = dict.fromkeys(EditBody.model_fields)
    images = [{"image_url": as_base64(FOX), "file_id": None, "type": None}]
    ok(client.post(EDIT, json=nulls | {"prompt": "a fox", "steps": 1, "images": images}))


# types of bodies


@pytest.mark.parametrize(
    "kind",
    [
        *("application/x-www-form-urlencoded", "text/plain;charset=UTF-8", "text/json", ""),
        *(
            "application/octet-stream",
            "APPLICATION/JSON; charset=utf-8",
            "application/vnd.api+json",
        ),
    ],
)
def test_json_is_read_under_other_types(client: httpx2.Client, kind: str) -> None:
    headers = {"Content-Type": kind} if kind else {}
    for path, body in ((PAINT, WISH), (KLEIN, SMALL), ("/v1/mini", SMALL)):
        ok(client.post(path, content=json.dumps(body).encode(), headers=headers))
    body = WISH | {"images": [{"image_url": as_base64(FOX)}]}
    ok(client.post(EDIT, content=json.dumps(body).encode(), headers=headers))


@pytest.mark.parametrize("path", [PAINT, KLEIN, "/v1/mini"])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/x-www-form-urlencoded", b"prompt=a+fox"),
        ("text/plain", b"a fox"),
        ("", b"a fox"),
        ("application/xml", b'{"prompt": "a fox"}'),
        ("multipart/form-data; boundary=b", b"--b--\r\n"),
        ("image/png", FOX),
        ("", b""),
        ("text/plain", b"[]"),
    ],
)
def test_wrong_type_is_named(client: httpx2.Client, path: str, kind: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers={"Content-Type": kind} if kind else {})
    assert answer.status_code == 415
    assert "Content-Type: application/json" in message(answer)
    assert (kind.partition(";")[0] or "there is no Content-Type") in message(answer)
    assert set(answer.json()) == {"error" if path == PAINT else "detail"}


def test_wrong_type_of_an_edit_names_both_forms(client: httpx2.Client) -> None:
    for kind in ("text/html", "text/plain", "application/xml", "image/png", ""):
        headers = {"Content-Type": kind} if kind else {}
        answer = client.post(EDIT, content=b"prompt=x&image=a", headers=headers)
        assert answer.status_code == 415
        assert "multipart/form-data" in message(answer)
        assert "application/json" in message(answer)


@pytest.mark.parametrize("path", [PAINT, EDIT, KLEIN])
@pytest.mark.parametrize("body", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_json_that_is_no_object_is_named(client: httpx2.Client, path: str, body: bytes) -> None:
    answer = client.post(path, content=body, headers=JSON)
    assert 400 <= answer.status_code < 500
    assert "Missing required parameter: 'prompt'" not in answer.text


def test_edit_may_be_url_encoded(client: httpx2.Client) -> None:
    wish = {"prompt": "yellow", "steps": "1", "seed": "7", "n": "", "image": as_base64(FOX)}
    assert ok(client.post(EDIT, data=wish)).json()["size"] == "96x80"
    answer = client.post(EDIT, data={"prompt": "yellow"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "image")
    for body in (b"prompt=%ff&image=a", b"a=1&" * 100, b"image=%", b"\xff="):
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        assert client.post(EDIT, content=body, headers=headers).status_code in (400, 422)


# JSON edits


DATA_URL = "data:image/png;base64," + as_base64(FOX)


@pytest.mark.parametrize(
    "pictures",
    [
        *({"images": [{"image_url": DATA_URL}]}, {"images": [DATA_URL]}, {"image": DATA_URL}),
        *({"image": [DATA_URL, as_base64(FOX)]}, {"image": {"image_url": DATA_URL}}),
        {"image": [{"image_url": DATA_URL}], "images": [{"image_url": DATA_URL}]},
        {"images": [{"type": "input_image", "image_url": DATA_URL}], "mask": None},
    ],
    ids=repr,
)
def test_edit_takes_json(client: httpx2.Client, pictures: dict[str, Any]) -> None:
    count = sum(len(v) if isinstance(v, list) else 1 for v in pictures.values() if v is not None)
    wish = {"prompt": "yellow", "steps": 1, "seed": 7}
    body = ok(client.post(EDIT, json=wish | pictures)).json()
    assert body["size"] == "96x80"
    assert body["usage"]["input_tokens_details"]["image_tokens"] == 30 * count


def test_edit_is_the_same_picture_as_json_and_as_form(client: httpx2.Client) -> None:
    wish = {"prompt": "yellow", "steps": "1", "seed": "7"}
    first = client.post(EDIT, data=wish, files={"image": ("a.png", FOX)}).json()
    second = client.post(EDIT, json=wish | {"images": [{"image_url": DATA_URL}]}).json()
    pixels = [
        Image.open(io.BytesIO(base64.b64decode(one["data"][0]["b64_json"]))).tobytes()
        for one in (first, second)
    ]
    assert pixels[0] == pixels[1]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({}, "image"),
        ({"images": []}, "image"),
        ({"image": ""}, "image"),
        ({"images": [{}]}, "images[0].image_url"),
        ({"images": [DATA_URL, {"file_id": "file-1"}]}, "images[1].file_id"),
        ({"image": DATA_URL, "mask": {"image_url": DATA_URL}}, "mask"),
        ({"image": DATA_URL, "colour": "red"}, "colour"),
        ({"image": DATA_URL, "n": "many"}, "n"),
    ],
)
def test_wrong_json_edit_is_named(
    client: httpx2.Client, fields: dict[str, Any], param: str
) -> None:
    answer = client.post(EDIT, json={"prompt": "yellow"} | fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_wrong_picture_of_a_json_edit_is_named(client: httpx2.Client) -> None:
    for text in ("no picture", "http://[", "data:text/html,x", as_base64(b"nothing")):
        answer = client.post(EDIT, json={"prompt": "yellow", "images": [DATA_URL, text]})
        assert answer.status_code == 422
        assert message(answer).startswith("images[1]: ")


# forms


@pytest.mark.parametrize(
    "head",
    [
        *('name="image[]"; filename="a.png"', 'name="image[0]"; filename="a.png"'),
        *('name="images"; filename="a.png"', 'name="images[]"; filename="a.png"'),
        *('name="images[12]"; filename="a.png"', "name=image; filename=a.png"),
        "name=\"image\"; filename*=UTF-8''f%C3%BCchs.png",
        'name="image"; filename*=UTF-8\'\'a.png; filename="a.png"',
        "name=\"image\"; FileName*=utf-8'de'%22a%22.png",
    ],
)
def test_picture_of_a_form_is_found(client: httpx2.Client, head: str) -> None:
    assert ok(form(client, (head, FOX))).json()["size"] == "96x80"


@pytest.mark.parametrize("data", [DATA_URL, as_base64(FOX), DATA_URL.replace("+", "%2B")])
def test_picture_of_a_form_may_be_text(client: httpx2.Client, data: str) -> None:
    assert ok(form(client, ('name="image"', data.encode()))).json()["size"] == "96x80"


def test_numbered_pictures_come_in_their_order(client: httpx2.Client) -> None:
    second, first = picture(size=(64, 64)), picture(size=(112, 64))
    parts = (('name="image[1]"; filename="b"', second), ('name="image[0]"; filename="a"', first))
    assert ok(form(client, *parts)).json()["size"] == "112x64"


@pytest.mark.parametrize(
    "head",
    [
        *('name="n"', 'name="size"', 'name="mask"', 'name="mask"; filename=""', 'name="model"'),
        *('name="user"', 'name="negative_prompt"', 'name="image"', 'name="image"; filename=""'),
        'name="output_compression"',
    ],
)
def test_empty_part_is_left_out(client: httpx2.Client, head: str) -> None:
    ok(form(client, ('name="image"; filename="a.png"', FOX), (head, b"")))


@pytest.mark.parametrize("value", [b"null", b"undefined"])
def test_null_of_a_script_is_left_out(client: httpx2.Client, value: bytes) -> None:
    parts = tuple((f'name="{name}"', value) for name in ("n", "size", "quality", "user"))
    ok(form(client, ('name="image"; filename="a.png"', FOX), *parts))


@pytest.mark.parametrize("charset", ["undefined", "punycode", "idna", "hex", "utf-7", "x" * 300])
def test_charset_of_a_form_is_the_senders(client: httpx2.Client, charset: str) -> None:
    kind = f"multipart/form-data; boundary=b; charset={charset}"
    answer = form(client, ('name="image"; filename="a.png"', FOX), kind=kind)
    assert answer.status_code == 400
    assert "send UTF-8" in message(answer)


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", '"utf-8"', "us-ascii", "ISO-8859-1"])
def test_usual_charsets_are_read(client: httpx2.Client, charset: str) -> None:
    kind = f"multipart/form-data; charset={charset}; boundary=b"
    ok(form(client, ('name="image"; filename="a.png"', FOX), kind=kind))


# values


@pytest.mark.parametrize(
    "url",
    [
        *("data:;base64,", "data:image/png;name=my fox.png;base64,", "DATA:IMAGE/PNG;BASE64,"),
        *(
            "data:image/jpg;base64,",
            'data:image/png;name="a,b.png";base64,',
            "data:;name=x;base64,",
        ),
        *("data:application/octet-stream;base64,", "data:image/png; charset=utf-8; base64,"),
        "data:binary/octet-stream;base64,",
    ],
)
def test_data_urls_of_all_writers_are_read(client: httpx2.Client, url: str) -> None:
    for text in (url + as_base64(FOX), url + quote(as_base64(FOX), safe="")):
        ok(client.post(KLEIN, json=SMALL | {"input_image": text}))


@pytest.mark.parametrize(
    "url",
    ["data:image/png," + quote(FOX), "data:," + quote(FOX), "data:image/png;x=y," + quote(FOX)],
)
def test_data_url_may_be_percent_encoded(client: httpx2.Client, url: str) -> None:
    ok(client.post(KLEIN, json=SMALL | {"input_image": url}))


@pytest.mark.parametrize(
    "url", ["data:text/plain;base64,YQ==", "data:video/mp4;base64,YQ==", "data:"]
)
def test_data_url_of_no_picture_is_refused(client: httpx2.Client, url: str) -> None:
    answer = client.post(KLEIN, json=SMALL | {"input_image": url})
    assert (answer.status_code, message(answer)[:12]) == (422, "input_image:")


@pytest.mark.parametrize("size", ["128X64", "128×64", "128 x 64", "128*64", " 128x64 ", "0128x064"])
def test_sizes_as_people_type_them(client: httpx2.Client, size: str) -> None:
    assert ok(client.post(PAINT, json=WISH | {"size": size})).json()["size"] == "128x64"


@pytest.mark.parametrize("size", ["Auto", "AUTO", " auto"])
def test_auto_is_the_models_size(client: httpx2.Client, size: str) -> None:
    assert ok(client.post(PAINT, json=WISH | {"size": size})).json()["size"] == "128x128"


def test_seed_minus_one_is_any(client: httpx2.Client) -> None:
    seeds = set()
    for _ in range(2):
        task = ok(client.post(KLEIN, json=SMALL | {"seed": -1})).json()
        seeds.add(finished(client, task["polling_url"])["result"]["seed"])
    assert len(seeds) == 2 and min(seeds) >= 0
    ok(client.post(PAINT, json=WISH | {"seed": -1}))
    assert client.post(PAINT, json=WISH | {"seed": -2}).status_code == 400
    ok(form(client, ('name="image"; filename="a.png"', FOX), ('name="seed"', b"-1")))


# models


@pytest.mark.parametrize(
    "name",
    [
        "gpt-image-1",
        "gpt-image-1.5",
        "gpt-image-1-mini",
        "dall-e-2",
        "dall-e-3",
        "chatgpt-image-latest",
    ],
)
def test_openais_names_mean_the_only_model(client: httpx2.Client, name: str) -> None:
    answer = ok(client.post(PAINT, json=WISH | {"model": name}))
    assert answer.headers["x-kleinod-model"] == "mini"
    assert client.get(f"/v1/models/{name}").json()["root"] == "mini"
    part = ('name="model"', name.encode())
    edited = ok(form(client, ('name="image"; filename="a.png"', FOX), part))
    assert edited.headers["x-kleinod-model"] == "mini"


@pytest.mark.parametrize(
    "name", ["sd-3", "gpt-4", "dall-e-", "dall-e-3\n", "mini2", "../mini", "\x1b[8m"]
)
def test_other_names_are_refused_with_the_known_ones(client: httpx2.Client, name: str) -> None:
    answer = client.post(PAINT, json=WISH | {"model": name})
    assert answer.status_code == 404
    assert "mini" in message(answer) and "flux-2-klein-9b-preview" in message(answer)
    assert message(answer).isprintable()


def test_every_answer_says_which_model_painted(client: httpx2.Client) -> None:
    answer = ok(client.post("/v1/flux-2-klein-9b", json=SMALL))
    assert answer.headers["x-kleinod-model"] == "mini"
    task = answer.json()
    finished(client, task["polling_url"])
    for path in (task["polling_url"], f"/v1/jobs/{task['id']}", f"/v1/jobs/{task['id']}/events"):
        assert client.get(path).headers["x-kleinod-model"] == "mini"
    with client.stream("POST", PAINT, json=WISH | {"stream": True}) as stream:
        assert stream.headers["x-kleinod-model"] == "mini"
        stream.read()
    accept = client.post(PAINT, json=WISH, headers={"Accept": "image/png"})
    assert accept.headers["x-kleinod-model"] == "mini"


# negative prompts


def test_distilled_model_says_why_it_takes_no_negative_prompt(client: httpx2.Client) -> None:
    for path, wish, status in ((KLEIN, SMALL, 422), (PAINT, WISH, 400)):
        answer = client.post(path, json=wish | {"negative_prompt": "blue"})
        assert answer.status_code == status
        assert message(answer).startswith("negative_prompt: mini is distilled")
        assert "base model" in message(answer)
        for nothing in ("", "  ", None):
            ok(client.post(path, json=wish | {"negative_prompt": nothing}))


def test_base_model_takes_a_negative_prompt(base: Server) -> None:
    with base.client() as client:
        for text in ("blue", None):
            task = ok(client.post("/v1/tiny", json=SMALL | {"negative_prompt": text})).json()
            assert finished(client, task["polling_url"])["status"] == "Ready"
        plain = ok(client.post(PAINT, json=WISH)).json()["data"][0]["b64_json"]
        without = WISH | {"negative_prompt": "blue"}
        assert ok(client.post(PAINT, json=without)).json()["data"][0]["b64_json"] != plain
        part = ('name="negative_prompt"', b"blue")
        ok(form(client, ('name="image"; filename="a.png"', FOX), part))
        long = client.post(PAINT, json=WISH | {"negative_prompt": "a" * 40_000})
        assert (long.status_code, long.json()["error"]["param"]) == (422, "negative_prompt")


# HEAD and probes


def raw(server: Server, text: bytes) -> bytes:
    """What a server answers to bytes, to its end."""
    address = urlsplit(server.url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        connection.sendall(text)
        while part := connection.recv(65536):
            received += part
    return received


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/healthz", "/readyz", "/v1/models", "/v1/models/mini", "/openapi.json", "/docs"),
        *("/favicon.ico", "/page/page.js", "/metrics", "/v1/get_result?id=x", "/nothing"),
        *("/v1/models/nothing", "/v1/jobs/nothing", "/pictures/x?expires=1&signature=2"),
    ],
)
def test_head_is_answered_like_get(client: httpx2.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["content-type"] == got.headers["content-type"]
    if path != "/metrics":  # its numbers grow
        assert head.headers["content-length"] == got.headers["content-length"]


def test_head_of_a_picture_has_its_length(client: httpx2.Client) -> None:
    task = ok(client.post(KLEIN, json=SMALL)).json()
    sample = finished(client, task["polling_url"])["result"]["sample"]
    got, head = client.get(sample), client.head(sample)
    assert head.headers["content-length"] == str(len(got.content))
    assert head.headers["content-type"] == "image/jpeg"
    assert client.head(sample[:-1]).status_code == 403


def test_head_of_events_ends_at_once(client: httpx2.Client) -> None:
    slow = SMALL | {"width": 128, "height": 128, "steps": 100}
    task = ok(client.post(KLEIN, json=slow)).json()
    start = time.monotonic()
    head = client.head(f"/v1/jobs/{task['id']}/events")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert time.monotonic() - start < 10
    client.delete(f"/v1/jobs/{task['id']}")
    assert client.get("/healthz").status_code == 200


def test_head_of_what_is_only_posted_is_refused(client: httpx2.Client) -> None:
    for path in (PAINT, EDIT, KLEIN):
        assert client.head(path).status_code == 405


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_old_health_checks_are_answered(server: Server, path: str, method: str) -> None:
    status = b"405" if method == "OPTIONS" else b"200"
    for head in (b"", b"Host: balancer.example\r\n", b"Host: [\r\n", b"Host:\r\n"):
        text = f"{method} {path} HTTP/1.0\r\n".encode() + head + b"\r\n"
        assert raw(server, text).split(b" ")[1] == status
    assert raw(server, b"GET /v1/models HTTP/1.0\r\n\r\n").split(b" ")[1] == b"403"


# pages elsewhere


@pytest.mark.parametrize(
    "origin", ["http://[", "http://[::1", "http://a:b", "\xff", "null", "a" * 9999]
)
def test_broken_origins_are_refused(server: Server, base: Server, origin: str) -> None:
    for one in (server, base):
        for method, path in (("GET", "/v1/models"), ("POST", PAINT), ("OPTIONS", PAINT)):
            text = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            text += f"Origin: {origin}\r\nReferer: {origin}\r\nContent-Length: 0\r\n\r\n"
            assert raw(one, text.encode("latin-1")).split(b" ")[1] == b"403"


PREFLIGHT = {"Origin": PAGE, "Access-Control-Request-Method": "POST"}


def test_pages_elsewhere_are_refused_unless_allowed(client: httpx2.Client) -> None:
    answer = client.options(PAINT, headers=PREFLIGHT)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert client.get("/v1/models", headers={"Origin": PAGE}).status_code == 403


def test_allowed_page_may_ask_first_and_call(base: Server) -> None:
    asked = "authorization, content-type, x-key, x-stainless-lang"
    with base.client() as client:
        headers = PREFLIGHT | {"Access-Control-Request-Headers": asked}
        answer = client.options(PAINT, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert answer.headers["access-control-allow-headers"] == asked
        assert "POST" in answer.headers["access-control-allow-methods"]
        own = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}
        for got in (
            client.post(PAINT, json=WISH, headers=own),
            client.get("/nothing", headers=own),
        ):
            assert got.headers["access-control-allow-origin"] == PAGE
            assert "access-control-allow-credentials" not in got.headers
            assert "X-Kleinod-Model" in got.headers["access-control-expose-headers"]
        assert ok(client.post(PAINT, json=WISH, headers=own)).json()["data"]


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example", f"{PAGE}.evil", "null"]
)
def test_other_pages_stay_refused(base: Server, origin: str) -> None:
    with base.client() as client:
        answer = client.options(PAINT, headers=PREFLIGHT | {"Origin": origin})
        assert answer.status_code == 400
        assert "access-control-allow-origin" not in answer.headers
        got = client.get("/v1/models", headers={"Origin": origin})
        assert got.status_code == 403
        assert "access-control-allow-origin" not in got.headers


def test_openais_names_are_refused_where_set_so(base: Server) -> None:
    with base.client() as client:
        assert client.post(PAINT, json=WISH | {"model": "dall-e-3"}).status_code == 404


# the page's neighbours


def test_docs_are_a_page_of_our_own(client: httpx2.Client) -> None:
    page = ok(client.get("/docs"))
    assert page.headers["content-type"].startswith("text/html")
    for kind in ("src", "href"):
        for link in re.findall(rf'{kind}="([^"]+)"', page.text):
            assert "//" not in link
            assert client.get(f"/{link.lstrip('.')}").status_code == 200, link


def test_favicon_is_an_icon(client: httpx2.Client) -> None:
    icon = ok(client.get("/favicon.ico"))
    assert Image.open(io.BytesIO(icon.content)).format == "ICO"


# signed URLs


def test_signed_url_is_the_text_that_was_signed(client: httpx2.Client) -> None:
    task = ok(client.post(KLEIN, json=SMALL)).json()
    sample = finished(client, task["polling_url"])["result"]["sample"]
    ok(client.get(sample))
    found = re.search(r"expires=(\d+)", sample)
    assert found
    expires = found[1]
    for other in (f"0{expires}", f"{expires}%0A", f"%20{expires}", f"+{expires}", f"{expires}.0"):
        assert client.get(sample.replace(expires, other)).status_code == 403, other
    full = "".join(chr(ord(digit) + 0xFEE0) for digit in expires)
    assert client.get(sample.replace(expires, quote(full))).status_code == 403
    upper = re.sub("signature=.*", lambda match: match[0].upper().replace("SIGN", "sign"), sample)
    assert client.get(upper).status_code in (403, 422)


# what is not read


def test_compressed_body_is_no_json(client: httpx2.Client) -> None:
    body = gzip.compress(json.dumps(WISH).encode())
    answer = client.post(PAINT, content=body, headers=JSON | {"Content-Encoding": "gzip"})
    assert answer.status_code == 400


def test_log_says_who_paints_what(base: Server, tmp_path: Path) -> None:
    with base.client() as client:
        task = ok(
            client.post("/v1/tiny", json=SMALL | {"prompt": "a fox\nin\u2028the \x1b[8msnow"})
        )
        finished(client, task.json()["polling_url"])
    time.sleep(0.3)
    log = base.log.read_text()
    assert re.search(r"info started: tiny at http://", log)
    job = task.json()["id"]
    assert rf"job {job} starts, model tiny: a fox\nin\u2028the \x1b[8msnow" in log
    assert re.search(rf"job {job} ready, model tiny, \d+\.\d\d s", log)
    assert all(line.isprintable() for line in log.rstrip("\n").splitlines())
