"""Keys: made once, shown once, stored as a hash, refused once revoked."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import select
from typer.testing import CliRunner, Result

from kleinod.cli import app
from kleinod.errors import InputError
from kleinod.server.job_queue.api_keys import Keys
from kleinod.server.job_queue.database import Database
from kleinod.server.job_queue.tables import KeyRow


def test_key_is_found_by_its_whole_text_only(database: Database) -> None:
    keys = Keys(database)
    assert not keys.are_configured()
    made, other = keys.create("anna", max_concurrent=3), keys.create("bert")
    assert keys.find(made.secret) == made.record and made.record.max_concurrent == 3
    head, identity, tail = made.secret.split("-", 2)
    wrong = f"{head}-{identity}-{other.secret.split('-', 2)[2]}"
    for text in (
        "",
        "kl",
        "kl--",
        wrong,
        made.secret[:-1],
        made.secret + "x",
        f"x-{identity}-{tail}",
    ):
        assert keys.find(text) is None, text
    for text in ("kl-\0-\0", "kl-é-\udcff", "kl-" + "9" * 10000 + "-x"):
        assert keys.find(text) is None, text


def test_revoked_key_is_refused_and_keys_stay_needed(database: Database) -> None:
    keys = Keys(database)
    made = keys.create("anna")
    assert keys.revoke(made.record.id).revoked_at is not None
    assert keys.find(made.secret) is None and keys.are_configured()
    with pytest.raises(InputError, match="unknown"):
        keys.revoke("nobody")


def test_database_holds_no_secret(database: Database) -> None:
    made = Keys(database).create("anna")
    with database.reading() as session:
        (row,) = session.scalars(select(KeyRow)).all()
    secret = made.secret.split("-", 2)[2]
    assert all(secret not in str(value) for value in vars(row).values())


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "x" * 201])
def test_odd_names_are_refused(tmp_path: Path, name: str) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with pytest.raises(InputError, match="name"):
        Keys(database).create(name)
    database.close()


def _kleinod(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "kleinod", "keys", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_command_makes_lists_and_revokes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    monkeypatch.setenv("KLEINOD_DATA_FOLDER", str(tmp_path))
    made = json.loads(_kleinod("create", "anna", "--concurrent", "3", "--json").stdout)
    secret = _kleinod("create", "bert").stdout.strip()
    assert secret.startswith("kl-") and made["max_concurrent"] == 3
    listed = _kleinod("list").stdout
    assert "anna" in listed and "3 at once" in listed and secret.split("-", 2)[2] not in listed
    assert "anna" in _kleinod("revoke", made["id"]).stdout
    states = {
        row["name"]: row["revoked_at"] for row in json.loads(_kleinod("list", "--json").stdout)
    }
    assert states["anna"] is not None and states["bert"] is None
    told = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    assert [entry["event"] for entry in told] == ["key_created", "key_created", "key_revoked"]
    failed = _kleinod("revoke", "nobody")
    assert failed.returncode == 2 and failed.stderr.count("\n") == 1


def test_empty_list_of_keys_says_how_to_make_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kleinod.toml").write_text(f'database_url = "sqlite:///{tmp_path / "keys.db"}"\n')

    def listed(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["keys", "list", *arguments])

    assert listed().stderr == "no keys yet; make one with kleinod keys create NAME\n"
    assert json.loads(listed("--json").stdout) == [] and listed("--json").stderr == ""
    assert CliRunner().invoke(app, ["keys", "create", "anna"]).exit_code == 0
    assert listed().stderr == "" and "anna" in listed().stdout
