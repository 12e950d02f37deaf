"""`kleinod pull` against a small hub on the loopback: what it fetches, asks, resumes, refuses."""

import json
import random
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fake_hub
import pytest
from fake_hub import REVISION, FakeHub
from typer.testing import CliRunner, Result

from kleinod import catalog, hub, licenses
from kleinod.cli import app

NAME_4B, NAME_9B = "black-forest-labs/FLUX.2-klein-4B", "black-forest-labs/FLUX.2-klein-9B"
LARGE = "transformer/diffusion_pytorch_model.safetensors"
FILES = {
    "model_index.json": b'{"is_distilled": true}',
    "LICENSE.md": b"a licence",
    "README.md": b"words",
    "teaser.png": bytes(300),
    "flux-2-klein-4b.safetensors": bytes(4_000_000),
    "transformer/config.json": b"{}",
    LARGE: random.Random(1).randbytes(3_200_000),
    "transformer/diffusion_pytorch_model.fp16.safetensors": bytes(100),
    "transformer/diffusion_pytorch_model.bin": bytes(100),
    "text_encoder/model.safetensors": bytes(100),
    "vae/diffusion_pytorch_model.safetensors": bytes(101),
    "tokenizer/tokenizer.json": b"{}",
    "tokenizer/merges.txt": b"a b",
    "scheduler/scheduler_config.json": b"{ }",
}
WANTED = {
    "model_index.json", "LICENSE.md", "transformer/config.json", LARGE,
    "scheduler/scheduler_config.json",
    "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors",
    "tokenizer/tokenizer.json", "tokenizer/merges.txt",
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("KLEINOD_MODELS", raising=False)
    # files a tenth as large as real ones would need to be, so that the tests are quick
    monkeypatch.setattr(hub, "_LARGE_BYTES", 1_000_000)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100_000)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    with fake_hub.running(FakeHub(NAME_4B, dict(FILES))) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


def _pull(*arguments: object, answer: str | None = None) -> Result:
    return CliRunner().invoke(app, ["pull", *map(str, arguments)], input=answer)


def _assert_refused(result: Result, *messages: str) -> None:
    assert result.exit_code == 2, result.output
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: ")
    for message in messages:
        assert message in error


def test_what_a_model_needs_is_fetched_and_found(server: FakeHub) -> None:
    result = _pull("klein-4b")
    assert result.exit_code == 0, result.output
    folder = catalog.find("klein-4b")
    assert folder.name == REVISION and result.stdout == f"{folder}\n"
    here = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    assert here == {name: FILES[name] for name in WANTED}
    assert f"{NAME_4B}: Apache-2.0 ({server.url}/{NAME_4B})" in result.stderr
    assert 'kleinod generate "a fox" --model klein-4b' in result.stderr
    leftovers = [p for p in (folder.parents[1] / "blobs").iterdir() if "part" in p.name]
    assert leftovers == []


def test_what_is_here_is_not_fetched_again(server: FakeHub) -> None:
    assert _pull("klein-4b").exit_code == 0
    server.requests.clear()
    assert _pull("klein-4b").exit_code == 0
    assert [
        path for method, path, _ in server.requests if method == "GET" and "resolve" in path
    ] == []


def test_dry_run_lists_and_fetches_nothing(server: FakeHub, tmp_path: Path) -> None:
    result = _pull("klein-4b", "--dry-run")
    assert result.exit_code == 0
    listed = {line.split(" MB  ")[1] for line in result.stdout.splitlines()[:-2]}
    assert listed == WANTED
    assert "3.20 MB  " + LARGE in result.stdout and "licence: Apache-2.0" in result.stdout
    assert not (tmp_path / "hub").exists()
    assert all(path.startswith("/api/") for _, path, _ in server.requests)
    _pull("klein-4b")
    assert f"{LARGE}  here" in _pull("klein-4b", "--dry-run").stdout


def test_a_broken_connection_is_resumed(server: FakeHub) -> None:
    server.breaks_after = [1_100_000, 1_200_000]
    assert _pull("klein-4b").exit_code == 0
    ranges = server.fetched(LARGE)
    starts = [int(r.removeprefix("bytes=").removesuffix("-") or 0) for r in ranges]
    assert len(starts) == 3 and 0 == starts[0] < starts[1] < starts[2]
    assert (catalog.find("klein-4b") / LARGE).read_bytes() == FILES[LARGE]


def test_a_pull_that_was_stopped_goes_on_later(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception):
        """As a kill: nothing below catches it."""

    def stop(name: str, num_here: int, num_bytes: int) -> None:
        if num_here > 600_000:
            raise Stop

    wanted = hub.listing(NAME_4B)
    with pytest.raises(Stop):
        hub.download(wanted, stop)
    assert _pull("klein-4b").exit_code == 0
    ranges = server.fetched(LARGE)
    assert ranges[0] == "" and int(ranges[1].removeprefix("bytes=").removesuffix("-")) >= 600_000
    assert (catalog.find("klein-4b") / LARGE).read_bytes() == FILES[LARGE]


def test_damage_is_seen_and_removed(server: FakeHub) -> None:
    server.damage = b"not what was said"
    _assert_refused(_pull("klein-4b"), f"{LARGE}: arrived damaged and was removed; pull it again")
    server.damage = b""
    assert _pull("klein-4b").exit_code == 0


def test_the_token_goes_to_the_hub_only(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(hub, "_resume", lambda url, headers, part, counter: seen.append(headers))
    monkeypatch.setattr(hub, "_check", lambda part, etag, file: part.write_bytes(FILES[LARGE]))
    from huggingface_hub import file_download

    metadata = file_download.get_hf_file_metadata(
        f"{server.url}/{NAME_4B}/resolve/{REVISION}/{LARGE}"
    )
    elsewhere = metadata.__class__(
        metadata.commit_hash, metadata.etag, "https://storage.example/x", metadata.size, None
    )
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda *a, **k: elsewhere)
    hub.download(hub.listing(NAME_4B), lambda *numbers: None)
    assert len(seen) == 1 and "authorization" not in {name.lower() for name in seen[0]}


# Licences


@pytest.fixture
def non_commercial(server: FakeHub) -> FakeHub:
    server.repository = NAME_9B
    return server


def test_a_licence_must_be_accepted(non_commercial: FakeHub) -> None:
    _assert_refused(
        _pull("klein-9b"),
        f"license: {NAME_9B} is under the FLUX Non-Commercial License, which has to be accepted",
        "--accept-license",
    )
    assert non_commercial.fetched(LARGE) == []


def test_a_licence_is_accepted_once(non_commercial: FakeHub, tmp_path: Path) -> None:
    assert _pull("klein-9b", "--accept-license").exit_code == 0
    stored = json.loads((tmp_path / "home" / "licenses.json").read_text())
    assert stored[NAME_9B]["license"] == catalog.NON_COMMERCIAL
    assert stored[NAME_9B]["accepted_at"].startswith("20")
    result = _pull("klein-9b")
    assert result.exit_code == 0 and "FLUX Non-Commercial License" in result.stderr


@pytest.mark.parametrize(("answer", "is_fetched"), [("y\n", True), ("n\n", False), ("", False)])
def test_at_a_terminal_it_asks(
    answer: str, is_fetched: bool, non_commercial: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kleinod.cli.pull._is_terminal", lambda: True)
    result = _pull("klein-9b", answer=answer)
    assert "forbids commercial use" in result.stderr
    assert (result.exit_code == 0) == is_fetched
    assert bool(non_commercial.fetched(LARGE)) == is_fetched
    assert licenses.is_accepted(NAME_9B, catalog.NON_COMMERCIAL) == is_fetched


def test_a_card_that_says_non_commercial_counts(server: FakeHub) -> None:
    server.card = {"license": "other", "license_name": "flux-non-commercial-license"}
    server.repository = "somebody/klein-9b-copy"
    _assert_refused(_pull(server.repository), "is under the flux-non-commercial-license")


def test_a_broken_memory_asks_again(tmp_path: Path) -> None:
    licenses.accept("a/b", "x")
    (tmp_path / "home" / "licenses.json").write_text("{broken")
    assert not licenses.is_accepted("a/b", "x")


def test_the_memory_lies_in_the_users_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KLEINOD_HOME")
    monkeypatch.setenv("XDG_CONFIG_HOME", "/somewhere")
    assert licenses.acceptances() == Path("/somewhere/kleinod/licenses.json")


# Other repositories


def test_a_repository_of_one_file_gives_that_file(server: FakeHub) -> None:
    server.repository, server.files = "somebody/klein-fp8", {
        "klein-fp8.safetensors": bytes(50), "preview.png": bytes(9), "LICENSE.txt": b"x",
    }  # fmt: skip
    result = _pull("somebody/klein-fp8")
    assert result.exit_code == 0
    folder = Path(result.stdout.strip())
    assert {path.name for path in folder.iterdir()} == {"klein-fp8.safetensors", "LICENSE.txt"}


def test_of_many_files_one_is_to_be_named(server: FakeHub) -> None:
    server.repository = "somebody/klein-GGUF"
    server.files = {f"klein-{kind}.gguf": kind.encode() for kind in ("Q8_0", "Q4_0")}
    _assert_refused(
        _pull("somebody/klein-GGUF"),
        "has 2 weight files (klein-Q8_0.gguf, klein-Q4_0.gguf); give one with --file NAME",
    )
    result = _pull("somebody/klein-GGUF", "--file", "klein-Q4_0.gguf")
    assert Path(result.stdout.strip()).read_bytes() == b"Q4_0"
    _assert_refused(_pull("somebody/klein-GGUF", "--file", "x"), "has no x;")


# What goes wrong


def test_gated_is_said_plainly(server: FakeHub) -> None:
    server.is_gated = True
    _assert_refused(_pull("klein-4b"), "is gated; ask for access at", "HF_TOKEN")


@pytest.mark.parametrize(
    ("status", "code", "message"),
    [
        (401, "GatedRepo", "is gated; ask for access at"),
        (403, "GatedRepo", "is gated; ask for access at"),
        (403, "", "the hub refuses access (403)"),
        (401, "", "the hub refuses access (401)"),
        (404, "RepoNotFound", "the hub has no"),
        (500, "", "the hub answered 500; try again later"),
    ],
)
def test_refusals_are_said_plainly(server: FakeHub, status: int, code: str, message: str) -> None:
    server.status, server.error_code = status, code
    _assert_refused(_pull("klein-4b"), message)


def test_an_absent_repository_is_said_plainly(server: FakeHub) -> None:
    _assert_refused(_pull("somebody/else"), "the hub has no somebody/else, or it is private")


@pytest.mark.parametrize("name", ["klein-5b", "a/b/c", "../x", "a b/c"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    _assert_refused(_pull(name), "is no known model; give owner/name or one of klein-4b")


def test_the_built_in_model_needs_no_pull() -> None:
    _assert_refused(_pull("mini"), "mini comes with kleinod")


def test_no_network_is_said_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        _assert_refused(_pull("klein-4b"), "network: http://127.0.0.1:", "cannot be reached")


def test_offline_mode_is_said_plainly(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    _assert_refused(_pull("klein-4b"), "network: HF_HUB_OFFLINE is set")


def test_a_connection_that_never_comes_back_is_said_plainly(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    server.breaks_after = [100_000, *[0] * 50]
    _assert_refused(_pull("klein-4b"), "broke off", "what has arrived is kept")


def test_too_little_room_is_said_before(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage("/")._replace(free=400_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    _assert_refused(
        _pull("klein-4b"), "has 0.4 GB free", "needs 0.5; make room or set HF_HUB_CACHE"
    )
    assert server.fetched(LARGE) == []


def test_a_full_disk_is_said_plainly(server: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(hub, "_resume", full)
    _assert_refused(_pull("klein-4b"), "disk: is full; make room and run it again")


def test_the_hub_is_loaded_only_when_it_is_asked() -> None:
    code = "import sys, kleinod.cli; sys.exit('huggingface_hub' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


NAMES = [
    "../evil.safetensors", "transformer/../../evil.safetensors", "/etc/evil.safetensors",
    "..\\evil.safetensors", "C:\\evil.safetensors", "c:evil.safetensors", "./evil.safetensors",
    "a//evil.safetensors", "transformer/\x1b[31m.safetensors", "..", "vae/..", "evil\n.json",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("with_index", [True, False])
def test_a_name_that_leads_elsewhere_is_refused(
    server: FakeHub, tmp_path: Path, name: str, with_index: bool
) -> None:
    server.files = (dict(FILES) if with_index else {}) | {name: bytes(50)}
    _assert_refused(_pull("klein-4b"), "the hub lists the file", "nothing was fetched")
    _assert_refused(_pull(NAME_4B, "--file", name), "the hub lists the file")
    assert not list(tmp_path.rglob("*evil*")) and not server.fetched(LARGE)


ANSWERS = [
    b"", b"[]", b"null", b"{}", b"<html></html>", b'{"id": 7, "siblings": 9}', b"\xff\xfe",
    b'{"id": "a/b", "sha": "../..", "siblings": [{"rfilename": "model_index.json"}]}',
    b'{"id": "a/b", "sha": "x", "siblings": [{"rfilename": 7}]}',
    b'{"id": "a/b", "sha": "x", "siblings": [{}]}',
    b'{"id": "a/b", "sha": "x", "siblings": [{"rfilename": "a.gguf", "size": "much"}]}',
    b'{"id": "a/b", "sha": "x", "cardData": [1], "siblings": [{"rfilename": "a.gguf"}]}',
]  # fmt: skip


@pytest.mark.parametrize("answer", ANSWERS)
def test_whatever_a_hub_answers_is_one_line(
    server: FakeHub, monkeypatch: pytest.MonkeyPatch, answer: bytes
) -> None:
    monkeypatch.setattr(
        fake_hub, "_send_api", lambda handler, hub, path: fake_hub._send(handler, answer)
    )
    result = _pull("klein-4b")
    _assert_refused(result)
    assert result.stderr.splitlines()[-1].isprintable()
