"""The yardstick of every hypercall: a bare pyzmq echo between two processes, over the same kind of sockets.

    this process, DEALER (bind)  ──ipc──  ROUTER (connect), a process that sends every message back

Messages have the size of a hypercall's request. Run as a module it is the echoing process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

import zmq

from scripts.benchmarks.figure import per_call
from scripts.benchmarks.machine import environment

MESSAGE: Final = bytes(48)


class Echo:
    """Use in a `with` block; `round_trip(calls)` is the seconds of one."""

    def __enter__(self) -> Echo:
        self._folder = tempfile.TemporaryDirectory(prefix="xe-")
        endpoint = f"ipc://{Path(self._folder.name) / 'echo'}"
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.bind(endpoint)
        command = [sys.executable, "-m", "scripts.benchmarks.echo", endpoint]
        self._peer = subprocess.Popen(command, env=environment())
        self._socket.recv()
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.kill()
        self._peer.wait()
        self._context.destroy(linger=0)
        self._folder.cleanup()

    def round_trip(self, calls: int) -> float:
        send, receive = self._socket.send, self._socket.recv

        def once() -> None:
            send(MESSAGE)
            receive()

        return per_call(once, calls)


def serve(endpoint: str) -> None:
    """Send everything back, for ever. The first message goes out unasked: the connection is there."""
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
    socket.setsockopt(zmq.CONNECT_ROUTING_ID, b"peer")
    socket.connect(endpoint)
    socket.send_multipart([b"peer", b"ready"])
    while True:
        identity = socket.recv()
        data = socket.recv()
        socket.send(identity, zmq.SNDMORE)
        socket.send(data)


if __name__ == "__main__":
    serve(sys.argv[1])
