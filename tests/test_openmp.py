"""How long idle threads spin: chosen before torch, and only where nobody has chosen."""

import os
import subprocess
import sys

import pytest

CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def spin_count(code: str, **variables: str) -> str:
    """What GOMP_SPINCOUNT is in a new process after some code."""
    environment = {name: value for name, value in os.environ.items() if name not in CHOICES}
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import os; print(os.environ.get('GOMP_SPINCOUNT'))"],
        env=environment | variables,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.stdout.strip()


@pytest.mark.parametrize(
    "code", ["import kleinod", "import kleinod.diffusion.sampler", "from kleinod.cli import main"]
)
def test_idle_threads_sleep_soon(code: str) -> None:
    assert 0 < int(spin_count(code)) < 300_000, "libgomp's own count"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, "None"),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, "None"),
    ],
)
def test_users_choice_stays(variables: dict[str, str], expected: str) -> None:
    assert spin_count("import kleinod", **variables) == expected


def test_torch_reads_the_count() -> None:
    """libgomp reads it as it is loaded, so torch must not be there before."""
    code = "import sys, kleinod; assert 'torch' not in sys.modules"
    assert int(spin_count(code)) > 0
