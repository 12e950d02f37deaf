"""Settings: flags over the environment over the file over the defaults; nothing is overlooked."""

import re
from pathlib import Path

import pytest

import kleinod
from kleinod.errors import InputError
from kleinod.server import settings as settings_module
from kleinod.server.settings import OTHER_VARIABLES, PREFIX, Settings, load

ROOT = Path(kleinod.__file__).parent


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A current folder and a configuration folder without a file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path / "home"))


def test_defaults_need_no_file(tmp_path: Path) -> None:
    settings = load()
    assert (settings.model, settings.host, settings.max_batch) == ("mini", "127.0.0.1", 8)
    assert (settings.key_concurrency, settings.url_seconds) == (24, 600)
    assert settings.database == f"sqlite:///{tmp_path / 'home' / 'server' / 'kleinod.db'}"
    assert settings.storage == str(tmp_path / "home" / "server" / "pictures")


def test_flag_goes_over_environment_over_file(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("kleinod.toml").write_text("port = 1\nmax_batch = 2\nmax_queue = 3\n", encoding="utf-8")
    monkeypatch.setenv("KLEINOD_PORT", "10")
    monkeypatch.setenv("KLEINOD_MAX_BATCH", "20")
    settings = load(port=100, host=None)
    assert (settings.port, settings.max_batch, settings.max_queue) == (100, 20, 3)


def test_file_is_found_in_the_configuration_folder_or_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "kleinod.toml").write_text("port = 5\n", encoding="utf-8")
    assert load().port == 5
    (tmp_path / "other.toml").write_text("port = 6\n", encoding="utf-8")
    monkeypatch.setenv("KLEINOD_CONFIG", str(tmp_path / "other.toml"))
    assert load().port == 6
    assert load(tmp_path / "home" / "kleinod.toml").port == 5


def test_lists_are_json_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLEINOD_WEBHOOK_DELAYS_SECONDS", "[2, 3]")
    assert load().webhook_delays_seconds == (2, 3)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("KLEINOD_MAX_QUEU", "3", "KLEINOD_MAX_QUEU is no setting; did you mean KLEINOD_MAX_QUEUE"),
        ("KLEINOD_XYZZY", "3", "docs/service.md"),
        ("KLEINOD_PORT", "none", "environment: KLEINOD_PORT is 'none'"),
        ("KLEINOD_PORT", "70000", "less than or equal to 65535"),
        ("KLEINOD_C2PA", "maybe", "'on' or 'off'"),
        ("KLEINOD_MORE_MODELS", "a, b", "lists are JSON"),
    ],
)
def test_wrong_environment_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, message: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        load()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_queu = 3", "max_queu is no setting; did you mean max_queue?"),
        ("port = 'x'", "kleinod.toml: port is 'x'"),
        ("port = ", "kleinod.toml cannot be read"),
    ],
)
def test_wrong_file_is_one_line(text: str, message: str) -> None:
    Path("kleinod.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=re.escape(message)) as refused:
        load()
    assert "\n" not in str(refused.value)


def test_every_variable_that_the_code_reads_is_known() -> None:
    found = {
        name
        for path in ROOT.rglob("*.py")
        for name in re.findall(rf"\b{PREFIX}([A-Z][A-Z0-9_]*)", path.read_text(encoding="utf-8"))
    }
    assert found - OTHER_VARIABLES <= {name.upper() for name in Settings.model_fields}


def test_page_lists_every_setting() -> None:
    page = (ROOT.parents[1] / "docs" / "service.md").read_text(encoding="utf-8")
    assert settings_module.table() in page, "run `make docs`"


def test_home_is_expanded_wherever_a_path_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    loaded = load(data_folder=Path("~/data"))
    assert loaded.folder == tmp_path / "data"
    assert loaded.database == f"sqlite:///{tmp_path}/data/kleinod.db"
    loaded = load(storage_url="~/pictures", database_url="sqlite:///~/jobs.db")
    assert (loaded.storage, loaded.database) == (
        f"{tmp_path}/pictures",
        f"sqlite:///{tmp_path}/jobs.db",
    )
    remote = load(storage_url="s3://bucket/~x", database_url="postgresql://host/~x")
    assert (remote.storage, remote.database) == ("s3://bucket/~x", "postgresql://host/~x")
    monkeypatch.setenv("KLEINOD_DATA_FOLDER", "~/other")
    assert load().folder == tmp_path / "other"
