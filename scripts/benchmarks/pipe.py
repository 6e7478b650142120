"""What ZeroMQ alone does between two processes: the least that anything carried over it can cost.

    this process, PAIR (bind)  ──ipc──  PAIR (connect), a process that answers a batch when all of it has come

Run as a module it is the other process.
"""

from __future__ import annotations

import sys
import time

import zmq

from scripts.benchmarks.figure import per_call
from scripts.benchmarks.zmq_peer import ZmqPeer


class Pipe(ZmqPeer):
    """How fast messages pass it, and how fast one comes back."""

    kind, module = zmq.PAIR, "scripts.benchmarks.pipe"

    def greet(self) -> None:
        """Waits until the other process is connected."""
        self.messages_per_second(1, 1)

    def messages_per_second(self, size: int, count: int) -> float:
        """How fast messages of `size` bytes pass, one way."""
        send, message = self.socket.send, bytes(size)
        start = time.perf_counter()
        send(b"%d" % count)
        for _ in range(count):
            send(message)
        self.socket.recv()
        return count / (time.perf_counter() - start)

    def round_trip(self, calls: int) -> float:
        """Seconds of one message there, and one back."""

        def once() -> None:
            self.socket.send(b"0")
            self.socket.recv()

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
