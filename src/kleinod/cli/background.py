"""Loading in a thread what a command needs a moment later, while it imports torch.

Importing torch keeps one core busy for about two seconds, most of it in Python. Networks and
libraries of C load beside it: what loads must wait for itself where it is needed (a lock), and
raise there what goes wrong.
"""

import contextlib
import threading
from collections.abc import Callable


def load_in_background(load: Callable[[], object]) -> threading.Thread:
    """Call load in a thread; its errors are dropped: whoever needs the result calls it again."""

    def run() -> None:
        with contextlib.suppress(Exception):
            load()

    # not a daemon: an interpreter that ends while a thread imports C code may crash
    thread = threading.Thread(target=run, name="kleinod-load")
    thread.start()
    return thread
