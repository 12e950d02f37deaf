"""How long idle threads of OpenMP spin before they sleep. Knows no torch: it has to come first.

Between two parallel loops the other threads wait for the next. libgomp, which PyTorch brings on
Linux, lets them spin 300,000 rounds, about a millisecond, and beside other programs they burn the
very time that the work needs: a thread that finished early spins on a core which the thread that
everybody waits for should have. Figures: docs/log/2026-12-01-idle-threads.md.
"""

import os

# rounds of the loop of libgomp; a few microseconds, which is what a gap between two loops takes
_SPIN_COUNT = "1000"
# whoever sets one of them has chosen
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def shorten_waits() -> None:
    """Let idle threads sleep soon; to be called before torch is imported, later it has no effect.

    Sets GOMP_SPINCOUNT for this process and its children, unless the environment has it, or
    OMP_WAIT_POLICY, already.
    """
    if not any(name in os.environ for name in _CHOICES):
        os.environ["GOMP_SPINCOUNT"] = _SPIN_COUNT
