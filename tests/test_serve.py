"""`kleinod serve` as a command: what it says, what it logs, how it starts and stops."""

import base64
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx2
import pytest
from http_server import PATIENCE_SECONDS, SMALL, Server, num_jobs, serving, wait_until
from typer.testing import CliRunner

from kleinod.cli.app import app
from kleinod.server.logs import SECURITY_POLICY


def run(*arguments: str, code: str = "") -> "subprocess.CompletedProcess[str]":
    """Run `kleinod serve`, in an interpreter prepared by code."""
    program = f"import sys\n{code}\nfrom kleinod.cli import main\nsys.argv[0] = 'kleinod'\nmain()"
    command = [sys.executable, "-c", program, "serve", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False
    )


def _is_one_line(result: "subprocess.CompletedProcess[str]", pattern: str) -> None:
    *before, last = result.stderr.splitlines()
    assert result.returncode == 2, result.stderr
    assert re.match(f"error: {pattern}", last), result.stderr
    # what is loaded, and the log
    assert all(re.match(r"kleinod 0|\d\d:\d\d:\d\d ", line) for line in before), result.stderr
    assert result.stdout == ""


@pytest.mark.slow
def test_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        expected = rf"--port: cannot listen at 127.0.0.1:{port} .*--port"
        _is_one_line(run("--port", str(port)), expected)


def test_missing_extra_is_one_line() -> None:
    result = run(code="sys.modules['fastapi'] = None")
    _is_one_line(result, r"serve: the package fastapi is missing; run `pip install '\.\[serve\]'")


@pytest.mark.slow
def test_missing_model_is_one_line(tmp_path: Path) -> None:
    arguments = ("--port", "0", "--model", "nothing", "--data-folder", str(tmp_path))
    _is_one_line(run(*arguments), "--model: nothing is neither a path nor a known model")


@pytest.mark.slow
def test_wrong_setting_is_one_line() -> None:
    _is_one_line(run("--port", "70000"), "settings: port is 70000: ")


def test_greeting_names_address_and_model(server: Server) -> None:
    assert re.fullmatch(
        rf"kleinod \S+ serves mini at {server.url} \(the page: {server.url}/\)", server.greeting[0]
    )


def test_every_answer_has_an_id_and_the_security_headers(server: Server) -> None:
    with server.client() as client:
        for path in ("/", "/healthz", "/v1/models", "/nothing"):
            answer = client.get(path)
            assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
            assert answer.headers["content-security-policy"] == SECURITY_POLICY
            assert answer.headers["x-content-type-options"] == "nosniff"
        given = client.get("/healthz", headers={"X-Request-Id": "my-id.1"})
        assert given.headers["x-request-id"] == "my-id.1"
        odd = client.get("/healthz", headers={"X-Request-Id": 'a "b"'})
        assert odd.headers["x-request-id"] != 'a "b"'


def test_log_is_json_with_ids_and_without_prompts(server: Server) -> None:
    with server.client() as client:
        wish = SMALL | {"prompt": "an unmistakable prompt"}
        answer = client.post("/v1/mini", json=wish, headers={"X-Request-Id": "find-me"})
        assert answer.status_code == 200
    wait_until(lambda: "find-me" in server.log.read_text(), "the request's line")
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    found = [line for line in lines if line.get("request_id") == "find-me"]
    assert found[-1]["status"] == 200
    assert (found[-1]["method"], found[-1]["path"]) == ("POST", "/v1/mini")
    assert "unmistakable" not in text


def test_metrics_tell_of_queue_steps_stages_and_memory(server: Server) -> None:
    with server.client() as client:
        client.post(
            "/v1/images/generations",
            json={"prompt": "a fox", "size": "64x64", "steps": 1, "seed": 7},
        )
        text = client.get("/metrics").text
    for name in (
        "queue_jobs",
        "steps_total",
        "stage_seconds_bucket",
        "batch_pictures",
        "peak_memory",
    ):
        assert f"kleinod_{name}" in text


def test_openapi_document_names_keys_limits_and_streams(server: Server) -> None:
    with server.client() as client:
        document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    assert schemas["KleinInputs"]["properties"]["prompt"]["maxLength"] == 32_768
    assert set(document["components"]["securitySchemes"]) == {"key", "bearer"}
    assert "HTTPValidationError" not in schemas
    answers = document["paths"]["/v1/images/generations"]["post"]["responses"]["200"]["content"]
    assert set(answers) == {"application/json", "text/event-stream", "image/*"}
    form = document["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert "image[]" in form["multipart/form-data"]["schema"]["properties"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


@pytest.mark.slow
def test_answers_while_it_loads_and_finishes_when_it_is_stopped(tmp_path: Path) -> None:
    port = _free_port()
    command = [sys.executable, "-m", "kleinod", "serve", "--port", str(port)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "KLEINOD_DATA_FOLDER": str(tmp_path)}
    environment["KLEINOD_FINISH_SECONDS"] = str(PATIENCE_SECONDS)
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    try:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            assert _states(client)[0] == "loading"
            answers: list[httpx2.Response] = []
            wish = {"prompt": "a fox", "steps": 100, "size": "256x256"}

            def paint() -> None:
                answers.append(client.post("/v1/images/generations", json=wish, timeout=None))

            thread = threading.Thread(target=paint)
            thread.start()
            wait_until(lambda: num_jobs(client, "running") == 1, "the job to run")
            process.send_signal(signal.SIGTERM)
            thread.join()
        assert answers[0].status_code == 200
        assert process.wait(timeout=PATIENCE_SECONDS) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.wait()


@pytest.mark.slow
def test_served_in_int8_and_the_picture_says_so(tmp_path: Path) -> None:
    wish = {"prompt": "a fox", "size": "64x64", "steps": 1, "seed": 7}
    with (
        serving(tmp_path, "--quantize", "int8", offload="none") as server,
        server.client() as client,
    ):
        answer = client.post("/v1/images/generations", json=wish)
    assert answer.status_code == 200, answer.text
    file = tmp_path / "fox.png"
    file.write_bytes(base64.b64decode(answer.json()["data"][0]["b64_json"]))
    told = CliRunner().invoke(app, ["verify", str(file), "--json"])
    assert '"quantize": "int8"' in told.stdout, told.stdout


def _states(client: httpx2.Client) -> list[str]:
    """What /readyz says until it says ok; /healthz answers all the time."""
    states = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    while "ok" not in states and time.monotonic() < deadline:
        try:
            states.append(client.get("/readyz").json()["status"])
        except httpx2.ConnectError:
            time.sleep(0.02)
            continue
        assert client.get("/healthz").json() == {"status": "ok"}
        refused = client.get("/v1/models").status_code
        assert refused == (200 if states[-1] == "ok" else 503) or states[-1] == "loading"
        time.sleep(0.02)
    return states
