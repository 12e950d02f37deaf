"""The package's shape: imports go down one list, start-up needs no torch, functions stay short."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import kleinod

ROOT = Path(kleinod.__file__).parent
# A module or folder imports only what stands above it here (and, in a folder, its neighbours).
ORDER = (
    "version",
    "errors",
    "openmp",
    "display",
    "paths",
    "suggestions",
    "diffusers_names",
    "progress",
    "keywords",
    "extras",
    "fileio",
    "load_options",
    "request",
    "config",
    "vocabulary",
    "known_models",
    "catalog",
    "request_warnings",
    "licenses",
    "hub",
    "images",
    "kernels",
    "compute",
    "models",
    "quantization",
    "weights",
    "memory",
    "runtime",
    "diffusion",
    "safety",
    "provenance",
    "audit",
    "session",
    "engine",
    "server",
    "icons",
    "training",
    "evaluation",
    "bench",
    "kleinod",  # `import kleinod`: the public names
    "cli",
    "__main__",
)
# What the command line needs before it paints.
WITHOUT_TORCH = (
    "errors",
    "fileio",
    "suggestions",
    "progress",
    "display",
    "load_options",
    "request",
    "config",
    "vocabulary",
    "catalog",
    "request_warnings",
    "images",
    "weights.folders",
    "weights.headers",
    "weights.gguf_header",
    "weights.requirements",
    "hub",
    "safety",
    "bench.comparison",
    "bench.process",
    "bench.chart",
    "audit.audit_log_reader",
    "provenance.verification",
    "server.auditing",
    "server.job_queue.database",
    "server.job_queue.api_keys",
    "server.settings",
    "cli",
    "cli.audit",
    "cli.commands",
    "cli.generate",
    "cli.inspect",
    "cli.keys",
    "cli.models",
    "cli.prompts",
    "cli.verify",
)
# The oracles are for tests; nothing is ever unpickled.
NEVER = {"diffusers", "transformers", "pickle"}
# `kleinod bench --against diffusers` runs the peer, in a process of its own.
PEER = ROOT / "bench" / "diffusers_runner.py"
MAX_FUNCTION_LINES = 40
MAX_INIT_LINES = 60
MAX_FILE_LINES = 400
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def _imported(path: Path) -> Iterator[str]:
    """Dotted names of every import in a file, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _layer(dotted: str) -> str:
    """The entry of ORDER that a dotted name under `kleinod` belongs to."""
    parts = dotted.split(".")[1:]
    is_module = parts and (ROOT / parts[0]).with_suffix(".py").is_file()
    return parts[0] if parts and (is_module or (ROOT / parts[0]).is_dir()) else "kleinod"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_down_the_list(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in ORDER, f"add {own} to ORDER, and to docs/architecture.md"
    for name in _imported(path):
        is_allowed = path == PEER and name.split(".")[0] == "diffusers"
        assert is_allowed or name.split(".")[0] not in NEVER, f"{path} imports {name}"
        if name.split(".")[0] != "kleinod" or name == "kleinod.__version__":
            continue
        layer = _layer(name)
        is_below = ORDER.index(layer) < ORDER.index(own)
        assert is_below or layer == own, f"{own} imports {name}, which stands below it"


@pytest.mark.parametrize("name", WITHOUT_TORCH)
def test_module_needs_no_torch(name: str) -> None:
    code = f"import sys, kleinod.{name}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            limit = MAX_INIT_LINES if node.name == "__init__" else MAX_FUNCTION_LINES
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= limit, f"{node.name} has {length} lines, the limit is {limit}"


def test_architecture_page_names_every_module() -> None:
    page = (ROOT.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")
    present = {path.relative_to(ROOT).parts[0] for path in MODULES}
    missing = {f"{name}/" if "." not in name else name for name in present - {"__main__.py"}}
    assert {name for name in missing if f"`{name}`" not in page} == set()
