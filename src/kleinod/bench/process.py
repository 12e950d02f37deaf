"""A worker: a process that stays alive and answers one question at a time, in lines of JSON.

Each engine has one, so that memory is its own and calls of two engines can alternate. Ctrl-C is
the parent's: a worker ignores it and ends when its input does. No torch in here.
"""

import json
import os
import signal
import subprocess
import sys
from typing import Any, Self

from kleinod.errors import InputError, KleinodError


class Worker:
    """Starts `python -m kleinod.bench.runner_process NAME`; a context manager."""

    def __init__(self, name: str) -> None:
        self.name = name
        # a prompt that an earlier run kept on the disk would not be new
        own = {"KLEINOD_CACHE": "off", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "kleinod.bench.runner_process", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | own,
        )

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def ask(self, question: str, **fields: object) -> Any:  # noqa: ANN401 - JSON
        """The answer. Raises InputError or KleinodError as the worker did, or if it died."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"question": question, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the empty answer tells
        line = self._process.stdout.readline()
        if not line:
            raise KleinodError(self._death())
        answer = json.loads(line)
        if "error" in answer:
            raise (InputError if answer["is_users_fault"] else KleinodError)(answer["error"])
        return answer["answer"]

    def close(self) -> None:
        """End it, whatever it does."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                try:
                    pipe.close()
                except BrokenPipeError:
                    pass

    def _death(self) -> str:
        status = self._process.wait()
        reason = f"by signal {signal.Signals(-status).name}" if status < 0 else f"({status})"
        hint = "; was memory short?" if status == -9 else ""
        return f"the process of {self.name} ended {reason}{hint}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
