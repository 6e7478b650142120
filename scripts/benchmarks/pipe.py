"""What ZeroMQ alone does between two processes: the least that anything carried over it can cost.

    this process, PAIR (bind)  ──ipc──  PAIR (connect), a process that answers a batch when all of it has come

Run as a module it is the other process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import zmq

from scripts.benchmarks.figure import per_call
from scripts.benchmarks.machine import environment


class Pipe:
    """Use in a `with` block."""

    def __enter__(self) -> Pipe:
        self._folder = tempfile.TemporaryDirectory(prefix="xp-")
        endpoint = f"ipc://{Path(self._folder.name) / 'pipe'}"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.linger = 0
        self._socket.bind(endpoint)
        command = [sys.executable, "-m", "scripts.benchmarks.pipe", endpoint]
        self._peer = subprocess.Popen(command, env=environment())
        self.messages_per_second(1, 1)
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.kill()
        self._peer.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def messages_per_second(self, size: int, count: int) -> float:
        """How fast messages of `size` bytes pass, one way."""
        send, message = self._socket.send, bytes(size)
        start = time.perf_counter()
        send(b"%d" % count)
        for _ in range(count):
            send(message)
        self._socket.recv()
        return count / (time.perf_counter() - start)

    def round_trip(self, calls: int) -> float:
        """Seconds of one message there, and one back."""

        def once() -> None:
            self._socket.send(b"0")
            self._socket.recv()

        return per_call(once, calls)


def answer(endpoint: str) -> None:
    """For ever: a number, so many messages, then one back."""
    socket = zmq.Context().socket(zmq.PAIR)
    socket.connect(endpoint)
    while True:
        for _ in range(int(socket.recv())):
            socket.recv()
        socket.send(b"!")


if __name__ == "__main__":
    answer(sys.argv[1])
