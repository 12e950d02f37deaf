"""What tests need and pip cannot install: installed where it may be, skipped loudly elsewhere."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tests" / "install_system_packages.sh"
EVERYTHING = ("make", "python3", "cc", "curl", "chromium", "postgresql/initdb", "strace")
PACKAGES = {
    "make": {"make"},
    "python3": {"python3", "python3-venv"},
    "cc": {"gcc", "libc6-dev"},
    "curl": {"curl"},
    "chromium": {"chromium"},
    "postgresql/initdb": {"postgresql"},
    "strace": {"strace"},
}


class Machine:
    """A folder that is all the path: programs which are there, and what was run as whom."""

    def __init__(
        self, folder: Path, *, missing: tuple[str, ...] = (), is_root: bool = False
    ) -> None:
        self.folder, self.calls = folder, folder / "calls"
        self.add("id", f"echo {0 if is_root else 1000}")
        for name in ("dirname", "rm", "env", "true"):
            path = shutil.which(name)
            assert path
            (folder / name).symlink_to(path)
        for name in set(EVERYTHING) - set(missing):
            self.add(name, "exit 0")

    def add(self, name: str, code: str) -> None:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f'#!/bin/sh\necho "{path.name} $*" >> "{self.calls}"\n{code}\n')
        path.chmod(0o755)

    def install(self, **environment: str) -> "subprocess.CompletedProcess[str]":
        places = {"PATH": str(self.folder), "POSTGRESQL_FOLDER": str(self.folder / "postgresql")}
        environment = {"VENV": str(self.folder / "venv")} | places | environment
        # a prompt for a password would be read from here
        return subprocess.run(
            ["/bin/sh", SCRIPT],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    @property
    def installed(self) -> set[str]:
        """The packages that apt-get was told to install."""
        lines = self.calls.read_text().splitlines() if self.calls.exists() else []
        found = [line.split()[2:] for line in lines if line.startswith("apt-get install ")]
        return {word for words in found for word in words if not word.startswith("-")}


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "user"])
def test_nothing_is_installed_where_nothing_is_missing(tmp_path: Path, is_root: bool) -> None:
    machine = Machine(tmp_path, is_root=is_root)
    machine.add("apt-get", "exit 0")
    done = machine.install(CI="true")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert "apt-get" not in machine.calls.read_text()


@pytest.mark.parametrize("missing", [*((name,) for name in EVERYTHING), EVERYTHING], ids=" ".join)
def test_root_installs_exactly_what_is_missing(tmp_path: Path, missing: tuple[str, ...]) -> None:
    machine = Machine(tmp_path, missing=missing, is_root=True)
    machine.add("apt-get", '[ "$1" = update ] || [ "$DEBIAN_FRONTEND" = noninteractive ]')
    done = machine.install()
    assert done.returncode == 0, done.stderr
    assert machine.installed == set().union(*(PACKAGES[name] for name in missing))
    lines = machine.calls.read_text().splitlines()
    commands = [line.split()[1] for line in lines if line.startswith("apt-get")]
    assert commands == ["update", "install"], "the lists of a fresh machine are empty"


def test_python_without_pip_gets_it(tmp_path: Path) -> None:
    """As Debian's python3 is without python3-venv."""
    machine = Machine(tmp_path, is_root=True)
    machine.add("python3", "exit 1")
    machine.add("apt-get", "exit 0")
    assert machine.install().returncode == 0
    assert machine.installed == {"python3-venv"}


def test_other_browser_or_compiler_will_do(tmp_path: Path) -> None:
    machine = Machine(tmp_path, missing=("chromium",), is_root=True)
    machine.add("apt-get", "exit 0")
    machine.add("google-chrome", "exit 0")
    assert machine.install().returncode == 0
    assert machine.installed == set()


def test_user_with_sudo_that_asks_for_nothing_installs(tmp_path: Path) -> None:
    machine = Machine(tmp_path, missing=("chromium",))
    machine.add("apt-get", "exit 0")
    machine.add("sudo", '[ "$1" = -n ] && shift && exec "$@"')
    assert machine.install().returncode == 0
    assert machine.installed == {"chromium"}


ASKS_FOR_A_PASSWORD = '[ "$1" = -n ] && exit 1; read password; exit 1'


@pytest.mark.parametrize(
    ("programs", "is_root", "reason"),
    [
        ({"apt-get": "exit 0"}, False, "only root may install packages"),
        ({"apt-get": "exit 0", "sudo": ASKS_FOR_A_PASSWORD}, False, "only root may install"),
        ({}, True, "no apt-get here"),
        ({"sudo": "exit 0"}, False, "no apt-get here"),
        ({"apt-get": "exit 100"}, True, "apt-get failed"),
        ({"apt-get": '[ "$1" = update ]'}, True, "apt-get failed"),
    ],
    ids=["user", "sudo with password", "no apt", "no apt, sudo", "no network", "no package"],
)
def test_where_nothing_may_be_installed_the_tests_go_on_but_not_in_ci(
    tmp_path: Path, programs: dict[str, str], is_root: bool, reason: str
) -> None:
    machine = Machine(tmp_path, missing=("chromium", "postgresql/initdb"), is_root=is_root)
    for name, code in programs.items():
        machine.add(name, code)
    done = machine.install()
    assert done.returncode == 0
    assert re.search(rf"{reason}.*; not installed: chromium postgresql\n$", done.stderr)
    assert machine.install(CI="false").returncode == 0
    assert machine.install(CI="true").returncode == machine.install(CI="1").returncode == 1


def test_package_is_installed_again_after_the_compiler(tmp_path: Path) -> None:
    """What was installed without a compiler has no kernels."""
    machine = Machine(tmp_path, missing=("cc",), is_root=True)
    machine.add("apt-get", "exit 0")
    stamps = [tmp_path / "venv" / name for name in (".installed", ".installed-test")]
    stamps[0].parent.mkdir()
    for stamp in stamps:
        stamp.touch()
    assert machine.install().returncode == 0
    assert not any(stamp.exists() for stamp in stamps)


# The tests' own side: what a run without these programs says.


def run_pytest(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """pytest on a test of ours, on a machine that has neither browser nor database."""
    absent = {"CHROMIUM": "no-such-browser", "POSTGRESQL_FOLDER": "/nowhere", "CI": ""}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, env=os.environ | absent | environment, cwd=ROOT, capture_output=True, text=True
    )


BROWSER_TEST = "tests/test_page.py::test_every_control_has_a_name"
STORE_TESTS = "tests/test_server_store.py"


@pytest.mark.slow
def test_run_without_programs_ends_with_one_line_about_them() -> None:
    done = run_pytest(BROWSER_TEST, STORE_TESTS, "-k", "control or cancel")
    assert done.returncode == 0, done.stdout
    found = re.findall(r"^SKIPPED, NOT TESTED: .*$", done.stdout, re.M)
    assert len(found) == 1
    assert "1 tests in test_page.py need Chromium" in found[0]
    assert re.search(r"[1-9]\d* tests in test_server_store.py need PostgreSQL", found[0])
    assert "sudo make system_packages" in found[0]
    # nothing but the count comes after it
    assert re.search(rf"{re.escape(found[0])}\n\d+ passed, \d+ skipped.*\n$", done.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("ci", ["true", "1"])
def test_run_without_programs_fails_in_ci(ci: str) -> None:
    done = run_pytest(BROWSER_TEST, STORE_TESTS, "-k", "control or cancel", CI=ci)
    assert done.returncode == 1
    assert "not on this machine: Chromium, and CI is set" in done.stdout
    assert "not on this machine: PostgreSQL, and CI is set" in done.stdout
    assert "SKIPPED" not in done.stdout
    assert re.search(r"\nRun only what failed: .* -m pytest --last-failed\n.*\n$", done.stdout)


def test_continuous_integration_has_no_list_of_its_own() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "install_system_packages.sh" in text and "apt" not in text
