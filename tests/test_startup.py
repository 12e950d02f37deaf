"""What starts early and what is imported late, each asked of a process of its own."""

import os
import pty
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import kleinod
from kleinod.__main__ import is_slow
from kleinod.compute import attention_cuda, matmul
from kleinod.compute.graph_constants import constant_in_graphs

# what a compiler needs and a plain picture does not
_COMPILER = ("torch._dynamo", "torch._inductor", "sympy", "networkx")


def _run(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize(
    "painted",
    [
        "kleinod.load('mini').generate('a fox', seed=1)",
        "kleinod.load('mini', dtype='bfloat16', offload='model').generate('a fox')",
        "kleinod.load('mini').generate('a fox')",
    ],
)
def test_painting_imports_no_compiler(painted: str) -> None:
    code = f"import sys, kleinod\n{painted}\nprint([m for m in {_COMPILER} if m in sys.modules])"
    assert _run(code).strip().endswith("[]")


def test_constant_is_marked_as_torch_marks_it() -> None:
    def by_torch() -> bool:
        return True

    def by_us() -> bool:
        return True

    torch.compiler.assume_constant_result(by_torch)
    assert constant_in_graphs(by_us) is by_us
    assert vars(by_us) == vars(by_torch) != {}


def test_what_a_device_multiplies_is_a_constant_of_a_graph() -> None:
    def widened(x: torch.Tensor) -> torch.Tensor:
        return x.to(matmul.product_dtype(x.dtype, x.device)) * 2

    def attended(x: torch.Tensor) -> torch.Tensor:
        return attention_cuda.attention(x, x, x)

    for function in (widened, attended):
        x = torch.ones(1, 8, 2, 16, dtype=torch.bfloat16)
        compiled = torch.compile(function, backend="eager", fullgraph=True)
        assert torch.equal(compiled(x), function(x))


def _command(arguments: list[str]) -> str:
    """A program that runs a command line, then prints the modules that are imported."""
    return (
        "import sys\n"
        f"sys.argv = ['kleinod', *{arguments!r}]\n"
        "from kleinod.__main__ import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    status = end.code\n"
        "print('\\nMODULES', *sys.modules)\n"
        "sys.exit(status)"
    )


def _modules(*arguments: str) -> set[str]:
    return set(_run(_command(list(arguments))).rpartition("MODULES")[2].split())


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("--show-completion", "bash"),
        ("generate", "--help"),
        ("train", "--help"),
        ("models",),
        ("models", "--json"),
        ("inspect", "mini"),
        ("keys", "create", "a name"),
        ("keys", "list"),
        ("audit", "summary"),
        ("audit", "verify"),
    ],
)
def test_what_paints_nothing_needs_no_torch(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    (tmp_path / "audit.jsonl").touch()
    assert "torch" not in _modules(*arguments)


def test_keys_are_made_listed_and_revoked_without_torch(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("KLEINOD_HOME", str(tmp_path))
    secret = _run(_command(["keys", "create", "a name"])).split()[0]
    assert "torch" not in _modules("keys", "revoke", secret.split("-")[1])


def test_command_imports_no_other_command() -> None:
    own = {name for name in _modules("models") if name.startswith("kleinod.cli.")}
    commands = {path.stem for path in Path(matmul.__file__).parents[1].glob("cli/*.py")}
    others = commands & {"generate", "bench", "pull", "keys", "train", "serve", "inspect"}
    assert not own & {f"kleinod.cli.{name}" for name in others}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["generate", "a fox"], True),
        (["generate", "a fox", "--steps", "4"], True),
        (["repeat", "a.png"], True),
        (["generate", "a fox", "--quiet"], False),
        (["generate", "a fox", "-q"], False),
        (["generate", "a fox", "-qn", "2"], False),
        (["generate", "a fox", "--json"], False),
        (["generate", "--help"], False),
        (["models"], False),
        ([], False),
    ],
)
def test_slow_commands_are_known_by_their_arguments(arguments: list[str], expected: bool) -> None:
    assert is_slow(arguments) == expected


# a program that says when it first writes to stderr: before which imports
_SPY = """
import sys
write, seen = sys.stderr.write, []
def spy(text):
    if not seen and text.strip():
        seen.append([m for m in ("typer", "rich", "torch") if m in sys.modules])
    return write(text)
sys.stderr.write = spy
sys.argv = ["kleinod", *ARGUMENTS]
from kleinod import __main__
__main__.exit_without_teardown = lambda status: None  # the line below is still to be printed
try:
    __main__.main()
except SystemExit:
    pass
print("FIRST", seen)
"""


def _on_a_terminal(arguments: list[str], folder: Path) -> tuple[str, str]:
    """stdout of the program, and what it wrote to the terminal that is its stderr."""
    ours, theirs = pty.openpty()
    code = _SPY.replace("ARGUMENTS", repr(arguments))
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        **{"stdout": subprocess.PIPE, "stderr": theirs, "text": True, "cwd": folder},
        env=os.environ | {"TERM": "xterm-256color"},
    )
    os.close(theirs)
    written: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(ours, written))
    reader.start()
    out = process.communicate(timeout=120)[0]
    reader.join()
    os.close(ours)
    return out, b"".join(written).decode()


def _read_all(terminal: int, written: list[bytes]) -> None:
    while True:
        try:
            data = os.read(terminal, 1024)
        except OSError:  # Linux says so when the other end is closed
            return
        if not data:
            return
        written.append(data)


def test_sign_of_life_comes_before_every_import(tmp_path: Path) -> None:
    out, screen = _on_a_terminal(["generate", "a fox", "--seed", "1"], tmp_path)
    assert "FIRST [[]]" in out
    assert screen.lstrip("\r").startswith("starting")
    assert (tmp_path / "kleinod-1.png").is_file()


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate", "a fox", "--width", "100"],
        ["generate", "a fox", "--widht", "96"],
        ["repeat", "absent.png"],
    ],
)
def test_mistake_erases_the_sign_of_life(arguments: list[str], tmp_path: Path) -> None:
    out, screen = _on_a_terminal(arguments, tmp_path)
    assert "FIRST [[]]" in out
    erased = "\rstarting\r" + " " * len("starting") + "\rerror: "
    assert screen.startswith(erased)
    assert screen.count("\n") == 1


@pytest.mark.parametrize("arguments", [["generate", "a fox", "--quiet"], ["models"]])
def test_quiet_and_quick_commands_show_none(arguments: list[str], tmp_path: Path) -> None:
    assert "starting" not in _on_a_terminal(arguments, tmp_path)[1]


# shell completion


def _completed(words: str) -> list[str]:
    parts = words.split(" ")
    variables = {"COMP_WORDS": words, "COMP_CWORD": str(len(parts) - 1)}
    result = subprocess.run(
        [sys.executable, "-m", "kleinod"],
        env=os.environ | variables | {"_KLEINOD_COMPLETE": "complete_bash"},
        **{"capture_output": True, "text": True, "check": True},
    )
    assert result.stderr == ""
    return result.stdout.split()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("kleinod gen", ["generate"]),
        ("kleinod keys re", ["revoke"]),
        ("kleinod generate --neg", ["--negative-prompt"]),
        ("kleinod bench --ra", ["--random-weights"]),
        ("kleinod generate fox --model klein-base-9b-n", ["klein-base-9b-nvfp4"]),
        ("kleinod serve --model mi", ["mini"]),
        ("kleinod generate fox --dtype b", ["bfloat16"]),
        ("kleinod generate fox --device m", ["mps"]),
        ("kleinod generate fox --model ./", []),
    ],
)
def test_shell_completes_commands_options_and_names(words: str, expected: list[str]) -> None:
    assert _completed(words) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_shown(shell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")
    assert "_KLEINOD_COMPLETE" in _run(_command(["--show-completion", shell]))


# the package's names


def test_dir_shows_the_public_names_alone() -> None:
    listed = _run("import kleinod; print(*dir(kleinod))").split()
    assert {name for name in listed if not name.startswith("_")} == set(kleinod.__all__)
    assert "__version__" in listed and "_HOMES" not in listed
    assert [name for name in kleinod.__all__ if not hasattr(kleinod, name)] == []


@pytest.mark.parametrize(
    ("code", "output", "status"),
    [
        ("print('kept'); end(3)", "kept\n", 3),
        ("end(None); print('goes on')", "goes on\n", 0),
        ("end('a message'); print('goes on')", "goes on\n", 0),
        # a thread is at work: what it does is waited for
        (
            "threading.Thread(target=lambda: (time.sleep(0.3), print('late'))).start(); end(0)",
            "late\n",
            0,
        ),
        # a daemon is not
        ("threading.Thread(target=time.sleep, args=(60,), daemon=True).start(); end(5)", "", 5),
    ],
)
def test_process_ends_without_teardown(code: str, output: str, status: int) -> None:
    setup = "import sys, threading, time; from kleinod.__main__ import exit_without_teardown as end"
    done = subprocess.run(
        [sys.executable, "-c", f"{setup}; sys.modules['torch'] = sys; {code}"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (status, output)
