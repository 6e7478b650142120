"""The yardstick of creation: what Linux, Python and ZeroMQ take for a process that does nothing but say hello.

    this process ──"fork PATH"──► template (the same modules loaded, no ZeroMQ) ──fork──► child: DEALER (bind) PATH
    ROUTER (connect) ◄──────────────────────── hello ──────────────────────────────────────┘

Run as a module it is the template.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import zmq

from scripts.benchmarks.machine import environment

WARM: Final = ("domains.kernel.run", "domains.dom0.dom0")
"""What a machine's template holds, too."""


class WarmFork:
    """Use in a `with` block. `fork()` makes one more child; `end()` ends the oldest."""

    def __enter__(self) -> WarmFork:
        self._folder = tempfile.TemporaryDirectory(prefix="xw-")
        self._context = zmq.Context()
        self._template = subprocess.Popen(
            [sys.executable, "-m", "scripts.benchmarks.warm_fork"],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._children: list[tuple[int, zmq.Socket[bytes]]] = []
        self._number = 0
        self._line()
        return self

    def __exit__(self, *_: object) -> None:
        while self._children:
            self.end()
        assert self._template.stdin is not None
        self._template.stdin.close()
        self._template.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def fork(self) -> float:
        """Seconds from asking the template to the child's hello."""
        start = time.perf_counter()
        self._number += 1
        path = Path(self._folder.name) / str(self._number)
        self._say(str(path))
        pid = int(self._line())
        socket = self._context.socket(zmq.ROUTER)
        socket.linger = 0
        socket.connect(f"ipc://{path}")
        socket.recv_multipart()
        self._children.append((pid, socket))
        return time.perf_counter() - start

    def end(self) -> float:
        """Seconds until the oldest child is dead and reaped."""
        pid, socket = self._children.pop(0)
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        self._say("reap")
        self._line()
        seconds = time.perf_counter() - start
        socket.close()
        return seconds

    def memory(self) -> str:
        """smaps_rollup of the newest child."""
        return Path(f"/proc/{self._children[-1][0]}/smaps_rollup").read_text()

    def _say(self, words: str) -> None:
        assert self._template.stdin is not None
        self._template.stdin.write(words.encode() + b"\n")
        self._template.stdin.flush()

    def _line(self) -> str:
        assert self._template.stdout is not None
        return self._template.stdout.readline().decode().strip()


def template() -> None:
    """Fork a child for every path read, reap one for every "reap"; each is answered by a line."""
    for module in WARM:
        importlib.import_module(module)
    print("ready", flush=True)
    while line := os.read(0, 4096).decode().strip():
        if line == "reap":
            os.wait()
            print("reaped", flush=True)
        else:
            bound, bound_at = os.pipe()
            pid = os.fork()
            if pid == 0:
                child(line, bound_at)
            os.close(bound_at)
            os.read(bound, 1)
            os.close(bound)
            print(pid, flush=True)


def child(path: str, bound_at: int) -> None:
    """Bind, say hello, wait to be killed."""
    socket = zmq.Context().socket(zmq.DEALER)
    socket.bind(f"ipc://{path}")
    os.write(bound_at, b"1")
    socket.send(b"hello")
    socket.recv()


if __name__ == "__main__":
    template()
