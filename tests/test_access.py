"""Who is answered: without keys this machine's own programs, with keys their holders."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from http_server import SMALL, Server, finished, serving, wait_until

from kleinod.server.api import access
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.database import Database

KLEIN, PAINT = "/v1/flux-2-klein-4b", "/v1/images/generations"
MAX_BODY_BYTES = 200_000


@dataclass(frozen=True)
class Guarded:
    """A server that asks for keys, and three of them; the last may ask twice a minute."""

    server: Server
    keys: Keys
    secrets: tuple[str, str, str]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """With a small limit of bodies."""
    folder = tmp_path_factory.mktemp("guarded")
    database = Database(f"sqlite:///{folder / 'kleinod.db'}")
    database.migrate()
    keys = Keys(database)
    limits = ({}, {"max_concurrent": 1}, {"requests_per_minute": 2})
    made = [keys.create(f"key {i}", **limit) for i, limit in enumerate(limits)]
    with serving(folder, max_body_bytes=MAX_BODY_BYTES) as server:
        first, second, third = (one.secret for one in made)
        yield Guarded(server, keys, (first, second, third))
    database.close()


@pytest.mark.parametrize(
    "headers",
    [
        *({"Host": host} for host in ("example.com", "127.0.0.1.example.com", "evil.test:8686")),
        *({"Host": host} for host in ("", "[::1", "10.0.0.1")),
        *({"Origin": origin} for origin in ("https://evil.test", "null", "http://localhost:1")),
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_without_keys_other_names_and_pages_are_refused(
    server: Server, headers: dict[str, str]
) -> None:
    with server.client() as client:
        for path in ("/", "/metrics", "/v1/models"):
            answer = client.get(path, headers=headers)
            assert 400 <= answer.status_code < 404, answer.text
        assert client.post(KLEIN, json=SMALL, headers=headers).status_code in (400, 403)


def test_without_keys_any_key_and_the_own_page_are_welcome(server: Server) -> None:
    with server.client() as client:
        assert client.get("/v1/models", headers={"x-key": "any"}).status_code == 200
        assert client.get("/v1/models", headers={"Authorization": "Bearer any"}).status_code == 200
        assert client.get("/v1/models", headers={"Origin": server.url}).status_code == 200


@pytest.mark.parametrize(
    ("address", "is_own"),
    [
        *(
            (own, True)
            for own in ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "localhost")
        ),
        *((other, False) for other in ("0.0.0.0", "::", "10.0.0.1", "fe80::1", "example.com", "")),
    ],
)
def test_loopback_is_known(address: str, is_own: bool) -> None:
    assert access.is_loopback(address) is is_own


def test_without_a_key_each_api_refuses_in_its_own_words(guarded: Guarded) -> None:
    with guarded.server.client() as client:
        answer = client.post(KLEIN, json=SMALL)
        assert (answer.status_code, answer.json()) == (403, {"detail": "Not authenticated"})
        answer = client.post(PAINT, json={"prompt": "a"})
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["error"]["type"] == "authentication_error"


@pytest.mark.parametrize("wrong", ["nonsense", "kl-a-b", "kl-", "", "é", "a" * 10_000])
def test_wrong_key_is_refused(guarded: Guarded, wrong: str) -> None:
    with guarded.server.client() as client:
        raw = wrong.encode()
        for headers in ({b"x-key": raw}, {b"authorization": (b"Bearer " + raw).strip()}):
            answer = client.get("/v1/models", headers=headers)
            assert answer.status_code == 401, answer.text
            if wrong:
                assert answer.json()["error"]["code"] == "invalid_api_key"


def test_both_headers_are_read(guarded: Guarded) -> None:
    with guarded.server.client() as client:
        for headers in (
            {"x-key": guarded.secrets[0]},
            {"Authorization": f"Bearer {guarded.secrets[0]}"},
            {"Authorization": f"bearer  {guarded.secrets[0]}"},
        ):
            assert client.get("/v1/models", headers=headers).status_code == 200


def test_page_and_health_are_open(guarded: Guarded) -> None:
    with guarded.server.client() as client:
        for path in ("/", "/page/page.js", "/healthz", "/readyz", "/metrics", "/openapi.json"):
            assert client.get(path, headers={"Host": "kleinod.example"}).status_code == 200


def test_key_sees_only_its_own(guarded: Guarded) -> None:
    first, second = ({"x-key": secret} for secret in guarded.secrets[:2])
    with guarded.server.client() as client:
        task = client.post(KLEIN, json=SMALL, headers=first).json()
        path = f"/v1/jobs/{task['id']}"
        assert client.get(task["polling_url"]).status_code == 403
        other = client.get(task["polling_url"], headers=second).json()
        assert other["status"] == "Task not found"
        assert client.get(path, headers=second).status_code == 404
        assert client.get(f"{path}/events", headers=second).status_code == 404
        assert client.delete(path, headers=second).status_code == 404
    with guarded.server.client(headers=first) as client:
        result = finished(client, task["polling_url"])
    with guarded.server.client() as client:
        # the signed URL is the permission
        assert client.get(result["result"]["sample"]).status_code == 200


def test_rate_limit_says_when_to_ask_again(guarded: Guarded) -> None:
    with guarded.server.client(headers={"x-key": guarded.secrets[2]}) as client:
        answers = [client.post(KLEIN, json=SMALL) for _ in range(3)]
        assert [one.status_code for one in answers] == [200, 200, 429]
        assert 1 <= int(answers[2].headers["retry-after"]) <= 60
        assert set(answers[2].json()) == {"detail"}
        answer = client.post(PAINT, json={"prompt": "a"})
        assert answer.status_code == 429
        assert answer.json()["error"]["type"] == "rate_limit_error"


def test_concurrency_limit_holds(guarded: Guarded) -> None:
    with guarded.server.client(headers={"x-key": guarded.secrets[1]}) as client:
        task = client.post(KLEIN, json=SMALL | {"steps": 100, "width": 128, "height": 128}).json()
        assert client.post(KLEIN, json=SMALL).status_code == 429
        assert client.delete(f"/v1/jobs/{task['id']}").status_code == 200
        finished(client, task["polling_url"])
        assert client.post(KLEIN, json=SMALL).status_code == 200


def test_body_over_the_limit_is_413_with_and_without_its_length(guarded: Guarded) -> None:
    large = b'{"prompt": "' + b"a" * MAX_BODY_BYTES + b'"}'
    pieces = (large[start : start + 10_000] for start in range(0, len(large), 10_000))
    kind = {"Content-Type": "application/json"}
    with guarded.server.client(headers={"x-key": guarded.secrets[0]} | kind) as client:
        answer = client.post(KLEIN, content=large)
        assert (answer.status_code, list(answer.json())) == (413, ["detail"])
        answer = client.post(PAINT, content=pieces)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "request_too_large"


def test_revoked_key_is_refused_at_once(guarded: Guarded) -> None:
    made = guarded.keys.create("short-lived")
    with guarded.server.client(headers={"x-key": made.secret}) as client:
        assert client.get("/v1/models").status_code == 200
        guarded.keys.revoke(made.record.id)
        assert client.get("/v1/models").status_code == 401


def test_greeting_shows_where_the_key_goes(guarded: Guarded) -> None:
    assert '-H "Authorization: Bearer $KEY"' in guarded.server.greeting[1]


def test_log_holds_no_secrets(guarded: Guarded) -> None:
    with guarded.server.client(headers={"x-key": guarded.secrets[0]}) as client:
        client.post(KLEIN, json=SMALL | {"prompt": "a very private prompt"})
        client.get("/pictures/results/x/0.png", params={"expires": "1", "signature": "abc123"})
    read = guarded.server.log.read_text
    wait_until(lambda: "GET /pictures/results/x/0.png" in read(), "the last request's line")
    log = read()
    assert "POST /v1/flux-2-klein-4b 200" in log
    assert not re.search(r"private prompt|abc123|" + "|".join(guarded.secrets), log)


@pytest.mark.slow
def test_network_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"there are no keys; make one"):
        with serving(tmp_path, "--host", "0.0.0.0"):
            pass
