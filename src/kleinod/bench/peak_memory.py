"""How much memory a process held at most, where the system does not keep count."""

import threading
import time

from kleinod.memory import private_bytes


class PrivatePeak:
    """Looks at the private memory fifty times a second, from a thread that dies with the process.

    The kernel keeps a peak of the whole resident set only.
    """

    def __init__(self) -> None:
        self.largest = private_bytes()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while (now := private_bytes()) is not None:
            self.largest = max(self.largest or 0, now)
            time.sleep(0.02)
