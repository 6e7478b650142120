"""xenctl from a process that has its modules loaded already, as a machine's domains come from one: a test needs many commands and
machines, and of each 0.2 and 0.7 s of CPU time went into imports.

What runs is a process of its own, with xenctl's `main`, its arguments, environment, folder and three streams; only Python's
start is left out. Tests of that, and of signals and pipes, run `tests.machines.XENCTL`.

    test ── arguments, environment, folder; streams, a socket for the answer ──► template ─fork─► waits for it ─fork─► command
      ◄───────────────────────────────── pid, then exit code ───────────────────────────────────────┘
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NoReturn

REPOSITORY = Path(__file__).resolve().parent.parent
STREAMS = (0, 1, 2)
LATE = (
    "domains.xenctl.main",
    "domains.xenctl.attach",
    "domains.xenctl.explaining",
    "domains.xenctl.seeded_command",
    "domains.xenctl.topology.deploy",
    "domains.xenctl.topology.progress",
    "domains.dom0.toolstack.builder.unpacker",
    "hypervisor.core",
    "hypervisor.repeating.core",
)
"""What commands, and processes of machines, import when they need it."""
MAX_REQUEST = 1 << 17
"""Bytes of a command's arguments and environment."""


class WarmXenctl:
    """The template, which ends when this process does."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            subprocess.Popen(
                [sys.executable, "-m", "tests.warm_xenctl", str(theirs.fileno())],
                cwd=REPOSITORY,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )

    def run(
        self, words: Sequence[str], environment: dict[str, str], stdin: str, timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run, whose TimeoutExpired it raises. What the command writes is what is written when it ends: a machine
        that it has started holds nothing up.
        """
        request = json.dumps([list(words), environment, os.getcwd()]).encode()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        reader, writer = os.pipe()
        with ours, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            with theirs, open(reader):
                fds = [reader, out.fileno(), err.fileno(), theirs.fileno()]
                socket.send_fds(self._channel, [request], fds)
            with open(writer, "w", encoding="utf-8") as keyboard:
                keyboard.write(stdin)
            pid = int(ours.recv(32))
            if not select.select([ours], [], [], timeout)[0]:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout)
            code = int(ours.recv(32))
            texts = [
                os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode() for file in (out, err)
            ]
        return subprocess.CompletedProcess(["xenctl", *words], code, *texts)


@cache
def warm_xenctl() -> WarmXenctl:
    """The one template of this process."""
    return WarmXenctl()


def serve(channel: socket.socket) -> None:
    """Perform each request in a process of its own, until nobody can send one."""
    while True:
        request, fds, _, _ = socket.recv_fds(channel, MAX_REQUEST, len(STREAMS) + 1)
        if not request:
            return
        if os.fork() == 0:
            channel.close()
            wait_for_command(request, fds)
        for fd in fds:
            os.close(fd)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def wait_for_command(request: bytes, fds: list[int]) -> NoReturn:
    """Run the command and tell its end."""
    answer = socket.socket(fileno=fds.pop())
    pid = os.fork()
    if pid == 0:
        answer.close()
        words, environment, folder = json.loads(request)
        command(words, environment, folder, fds)
    answer.send(str(pid).encode())
    for fd in (*fds, *STREAMS):
        os.close(fd)
    answer.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
    os._exit(0)


def command(words: list[str], environment: dict[str, str], folder: str, fds: list[int]) -> NoReturn:
    """Be xenctl."""
    from domains.xenctl.main import main

    for fd, stream in zip(fds, STREAMS, strict=True):
        os.dup2(fd, stream)
        os.close(fd)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["xenctl", *words]
    try:
        main()
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))


def main() -> None:
    """The template's process."""
    from domains.cpu.process import ENGINES
    from domains.xenctl.commands import COMMANDS
    from domains.xenctl.template import FRONT_ENDS, WARM

    groups = (f"domains.xenctl.{place.rpartition('.')[0]}" for place in COMMANDS.values())
    for module in (
        *LATE,
        *groups,
        *WARM,
        *FRONT_ENDS,
        *ENGINES.values(),
    ):
        import_module(module)
    gc.freeze()
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == "__main__":
    main()
