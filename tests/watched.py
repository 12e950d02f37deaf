"""Runs a command with an empty home and reports what it connects to and which files it leaves.

Python's sockets are seen by an audit hook in every Python process of the command, native code's by
strace where that may be used. The environment is bare: above all it has no CI, with which
onnxruntime keeps its telemetry off.
"""

import ipaddress
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import kleinod

# what kleinod may write below a home
OWN_FOLDERS = (".cache/kleinod", ".config/kleinod", ".local/share/kleinod")
_HOOK = """
import os, sys
_EVENTS = ("socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo",
           "socket.gethostbyname", "socket.gethostbyaddr", "socket.getnameinfo")
_log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)

def _hook(event, arguments):
    if event in _EVENTS:
        # the first argument of the others is the socket
        subject = arguments[0] if "get" in event else arguments[-1]
        host = subject[0] if isinstance(subject, tuple) else subject
        os.write(_log, f"{event} {host!r}\\n".encode())

sys.addaudithook(_hook)
"""
_ADDRESS = re.compile(r'inet_addr\("([^"]+)"\)|inet_pton\(AF_INET6, "([^"]+)"')


@dataclass(frozen=True)
class Watched:
    """A running command and the folder that holds its home, current folder and logs."""

    process: "subprocess.Popen[str]"
    folder: Path

    def connections(self) -> list[str]:
        """Everything beyond this machine that it named or sent to. The command has to be over."""
        audited = (self.folder / "audit.log").read_text().splitlines()
        found = [line for line in audited if not _is_local(line.split(maxsplit=1)[1].strip("b'\""))]
        for match in _ADDRESS.finditer(self._traced()):
            address = match[1] or match[2]
            found += [] if _is_local(address) else [f"native code {address}"]
        return sorted(set(found))

    def foreign_files(self) -> list[str]:
        """Files below the home and the temporary folder that are not in kleinod's own folders."""
        own = tuple(f"home/{name}/" for name in OWN_FOLDERS)
        names = [
            path.relative_to(self.folder).as_posix()
            for folder in ("home", "temporary")
            for path in (self.folder / folder).rglob("*")
            if path.is_file()
        ]
        return sorted(name for name in names if not name.startswith(own))

    def _traced(self) -> str:
        """What strace wrote, once it has seen the end."""
        log = self.folder / "strace.log"
        deadline = time.monotonic() + 60
        while can_trace():
            text = log.read_text() if log.exists() else ""
            if re.search(rf"^{self.process.pid} .*\+\+\+ (exited|killed)", text, re.MULTILINE):
                return text
            assert time.monotonic() < deadline, "strace wrote no end"
            time.sleep(0.1)
        return ""


@contextmanager
def watched(folder: Path, *arguments: str, **variables: str) -> Iterator[Watched]:
    """Start Python with arguments, in `folder`/work; it is ended with the block."""
    for name in ("home", "work", "temporary", "hook"):
        (folder / name).mkdir(exist_ok=True)
    (folder / "hook" / "sitecustomize.py").write_text(_HOOK)
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "temporary"),
        "AUDIT_LOG": str(folder / "audit.log"),
        "PYTHONPATH": os.pathsep.join(
            [str(folder / "hook"), str(Path(kleinod.__file__).parents[1])]
        ),
    }
    command = [*_tracer(folder / "strace.log"), sys.executable, *arguments]
    with subprocess.Popen(
        command,
        env=environment | variables,
        cwd=folder / "work",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield Watched(process, folder)
        finally:
            process.kill()


def run(folder: Path, *arguments: str, **variables: str) -> Watched:
    """The same, to its end, which has to be a good one."""
    with watched(folder, *arguments, **variables) as running:
        output, _ = running.process.communicate(timeout=300)
        assert running.process.returncode == 0, output
        return running


@cache
def can_trace() -> bool:
    """Whether strace is installed and may look at processes here."""
    if not shutil.which("strace"):
        return False
    tried = subprocess.run(
        [*_tracer(Path(os.devnull), is_asked=False), "true"], capture_output=True, check=False
    )
    return tried.returncode == 0


def _tracer(log: Path, *, is_asked: bool = True) -> list[str]:
    if is_asked and not can_trace():
        return []
    # -D: the command stays the child of this process, so that signals reach it
    calls = "trace=connect,sendto,sendmsg,sendmmsg"
    return ["strace", "-D", "-f", "--seccomp-bpf", "-q", "-e", calls, "-o", str(log)]


def _is_local(host: str) -> bool:
    """Whether a host or path of a socket is this machine's; None and "" are any address of it."""
    if host in ("", "None", "localhost", "0.0.0.0", "::") or host.startswith("/"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
