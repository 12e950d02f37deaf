"""What is uploaded: a source distribution and a wheel that work with nothing of the checkout."""

import email
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from functools import cached_property
from pathlib import Path

import httpx2
import pytest

import kleinod
from kleinod.kernels import native

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# what setuptools adds to a source distribution
ADDED = re.compile(r"PKG-INFO|setup\.cfg|src/kleinod\.egg-info/.*")
RELATIVE_TARGET = re.compile(r"]\((?!\w+:)|src=[\"'](?!\w+:)")


@dataclass(frozen=True)
class Built:
    """The files that a build made."""

    folder: Path

    @cached_property
    def wheel(self) -> Path:
        """The one wheel."""
        (path,) = self.folder.glob("*.whl")
        return path

    @property
    def wheel_files(self) -> dict[str, bytes]:
        """Small files of the wheel; of the large ones the names."""
        with zipfile.ZipFile(self.wheel) as archive:
            return {
                entry.filename: archive.read(entry) if entry.file_size < 100_000 else b""
                for entry in archive.infolist()
            }

    @property
    def metadata(self) -> Message:
        """The wheel's."""
        files = self.wheel_files
        (name,) = (name for name in files if name.endswith(".dist-info/METADATA"))
        return email.message_from_bytes(files[name])

    @property
    def tags(self) -> tuple[str, str, str]:
        """Python, ABI and platform of the wheel's name."""
        _, _, *tags = self.wheel.stem.split("-")
        return tags[0], tags[1], tags[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone of the repository as it is now, without what git ignores."""
    folder = tmp_path_factory.mktemp("checkout") / "kleinod"
    for name in _repository_files():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target)
    return folder


def _repository_files() -> list[str]:
    """Names of every file, from git; in an unpacked source distribution all that are there."""
    if (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        return [name for name in names.stdout.split("\0") if (ROOT / name).is_file()]
    files = [path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file()]
    made = {".venv", "node_modules", "__pycache__", ".pytest_cache", "build", "dist", "site"}
    names = [path.as_posix() for path in files if not made & set(path.parts)]
    return [name for name in names if not ADDED.fullmatch(name) and not name.endswith(".so")]


def _build(checkout: Path, folder: Path, *options: str, **variables: str) -> Built:
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options]
    done = subprocess.run(
        command,
        cwd=checkout,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return Built(folder)


@pytest.fixture(scope="module")
def built(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Both distributions, the wheel built from the source distribution."""
    return _build(checkout, tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def pure(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The wheel of a machine without a C compiler."""
    return _build(checkout, tmp_path_factory.mktemp("pure"), "--wheel", CC="/nonexistent/cc")


def test_version_stands_in_one_place() -> None:
    files = [*ROOT.glob("src/**/*.py"), ROOT / "setup.py"]
    naming = [path for path in files if "__version__ =" in path.read_text("utf-8")]
    assert [path.name for path in naming] == ["version.py"]
    assert "version" in PROJECT["dynamic"] and "version" not in PROJECT


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("![A fox](docs/fox.png)", "*(In the repository: A fox)*"),
        ("![A fox](https://host.example/fox.png)", "![A fox](https://host.example/fox.png)"),
        ("see [the page](docs/a.md#part), [b](b.md)", "see the page, b"),
        ("[list](https://host.example/x) and [mail](mailto:a@b.example)", None),
        ("[a [b] c](docs/x.md)", "a [b] c"),
        ('<img src="docs/fox.png" width="9"> fox', " fox"),
        ("FLUX.2 [klein] (a model)", None),
    ],
)
def test_readme_for_an_index_leads_nowhere_in_the_repository(text: str, shown: str | None) -> None:
    readme = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["readme"]
    assert readme(text) == (text if shown is None else shown)


@pytest.mark.slow
def test_source_distribution_is_the_repository(built: Built) -> None:
    (path,) = built.folder.glob("*.tar.gz")
    assert path.name == f"kleinod-{kleinod.__version__}.tar.gz"
    with tarfile.open(path) as archive:
        names = [entry.name.partition("/")[2] for entry in archive if entry.isfile()]
    assert {name for name in names if not ADDED.fullmatch(name)} == set(_repository_files())


@pytest.mark.slow
def test_wheel_has_the_package_and_its_data(built: Built) -> None:
    names = {name for name in built.wheel_files if ".dist-info/" not in name}
    sources = (".c", ".h")
    expected = {
        name.removeprefix("src/")
        for name in _repository_files()
        if name.startswith("src/kleinod/") and not name.endswith(sources)
    }
    assert names - expected <= {"kleinod/kernels/_native.so"} and expected <= names


@pytest.mark.slow
def test_metadata_is_complete(built: Built) -> None:
    metadata = built.metadata
    assert metadata["Version"] == kleinod.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Author"] and metadata["Maintainer"] and metadata["Keywords"]
    assert "Typing :: Typed" in metadata.get_all("Classifier", [])
    assert set(metadata.get_all("License-File", [])) == {"LICENSE", "NOTICE"}
    # there is no public home page
    assert not metadata["Home-Page"] and not metadata.get_all("Project-URL")
    assert not RELATIVE_TARGET.search(str(metadata.get_payload()))
    command = [sys.executable, "-m", "twine", "check", "--strict"]
    command += map(str, built.folder.iterdir())
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
def test_one_wheel_for_every_python_of_the_platform(built: Built) -> None:
    library = "kleinod/kernels/_native.so" in built.wheel_files
    assert built.tags == ("py3", "none", "linux_x86_64" if library else "any")
    assert library == (native._library() is not None)
    if library:
        command = [sys.executable, "-m", "auditwheel", "show", str(built.wheel)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        # what the machine that builds has of the C library decides which
        assert re.search(r'platform tag:\s*"manylinux_2_\d+_x86_64"', shown), shown


@pytest.mark.slow
def test_wheel_without_a_compiler_is_pure(pure: Built) -> None:
    assert pure.tags == ("py3", "none", "any")
    files = pure.wheel_files
    assert not [name for name in files if name.endswith(".so") or ".data/" in name]
    (wheel,) = (text for name, text in files.items() if name.endswith(".dist-info/WHEEL"))
    assert b"Root-Is-Purelib: true" in wheel


@dataclass(frozen=True)
class Installed:
    """A wheel in an environment of its own, which sees the other packages of this one."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """Without anything that leads to the checkout."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.folder)}

    def run(self, *command: str) -> str:
        """What a program of the environment prints."""
        program = str(self.folder / "bin" / command[0])
        done = subprocess.run(
            [program, *command[1:]],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def serving(self) -> Iterator[str]:
        """`kleinod serve` on a free port; its address."""
        command = [str(self.folder / "bin" / "kleinod"), "serve", "--port", "0"]
        with subprocess.Popen(
            command, cwd=self.folder, env=self.environment, stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout
                lines = iter(process.stdout.readline, "")
                yield next(m[1] for line in lines if (m := re.search(r" at (http://\S+)", line)))
            finally:
                process.terminate()


def _installed(wheel: Path, folder: Path) -> Installed:
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    options = ["--quiet", "--no-index", "--no-deps", "--no-compile", "--disable-pip-version-check"]
    subprocess.run([*pip, *options, str(wheel)], check=True)
    (site,) = folder.glob("lib/python3.*/site-packages")
    # the dependencies: PyTorch is not fetched again. A .pth in that folder (the editable
    # installation of the checkout) is not read.
    others = [path for path in sys.path if path.endswith("site-packages")]
    (site / "others.pth").write_text("\n".join(others))
    return Installed(folder)


WHERE = """
import json, kleinod
from kleinod.kernels import native
print(json.dumps([kleinod.__file__, kleinod.__version__, native._library() is not None]))
"""


@pytest.mark.slow
def test_wheel_paints_verifies_and_serves(built: Built, tmp_path: Path) -> None:
    installed = _installed(built.wheel, tmp_path)
    file, version, has_library = json.loads(installed.run("python", "-c", WHERE))
    assert Path(file).is_relative_to(tmp_path) and version == kleinod.__version__
    assert has_library == ("any" not in built.tags)
    assert installed.run("kleinod", "--version") == f"kleinod {version}\n"
    installed.run("kleinod", "generate", "a fox", "--seed", "7", "-o", "fox.png")
    assert "Proved" in installed.run("kleinod", "verify", "fox.png")
    with installed.serving() as url, httpx2.Client(base_url=url, trust_env=False) as client:
        assert client.get("/").status_code == 200
        request = {"prompt": "a fox", "size": "64x64"}
        answer = client.post("/v1/images/generations", json=request, timeout=120)
        assert answer.status_code == 200, answer.text


@pytest.mark.slow
def test_pure_wheel_paints(pure: Built, tmp_path: Path) -> None:
    installed = _installed(pure.wheel, tmp_path)
    assert json.loads(installed.run("python", "-c", WHERE))[2] is False
    installed.run("kleinod", "generate", "a fox", "--seed", "7", "-o", "fox.png")
    assert "Proved" in installed.run("kleinod", "verify", "fox.png")


@pytest.mark.slow
def test_missing_extra_of_an_installed_wheel_names_the_wheel(built: Built, tmp_path: Path) -> None:
    installed = _installed(built.wheel, tmp_path)
    code = "from kleinod.extras import install_remedy; print(install_remedy('serve'))"
    assert installed.run("python", "-c", code) == f"run `pip install '{built.wheel}[serve]'`\n"


def test_every_requirement_has_a_lower_bound_and_a_constraint() -> None:
    pinned = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:]
    }
    extras = PROJECT["optional-dependencies"]
    for requirement in sum(extras.values(), PROJECT["dependencies"]):
        name = re.split(r"[\[<>=;]", requirement)[0].strip().lower().replace("_", "-")
        if name not in ("kleinod", "setuptools"):  # the build environment has the newest
            assert re.search(r"[>=]=", requirement), requirement
            assert name in pinned, f"{name} is not in constraints.txt"
