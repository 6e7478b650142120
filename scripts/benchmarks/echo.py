"""The yardstick of every hypercall: a bare pyzmq echo between two processes, over the same kind of sockets.

    this process, DEALER (bind)  ──ipc──  ROUTER (connect), a process that sends every message back

Messages have the size of a hypercall's request. Run as a module it is the echoing process.
"""

from __future__ import annotations

import sys
from typing import Final

import zmq

from scripts.benchmarks.figure import per_call
from scripts.benchmarks.zmq_peer import ZmqPeer

MESSAGE: Final = bytes(48)


class Echo(ZmqPeer):
    """`round_trip(calls)` is the seconds of one."""

    kind, module = zmq.DEALER, "scripts.benchmarks.echo"

    def greet(self) -> None:
        """Waits until the other process is connected."""
        self.socket.recv()

    def round_trip(self, calls: int) -> float:
        """Seconds of one message there and back, over `calls`."""
        send, receive = self.socket.send, self.socket.recv

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
