"""The core's end of the hypercall path, in ZeroMQ; a process's is in process_endpoint.py.

The core's one socket connects *out* to each domain process's own endpoint, under an id that the core chose: a message's
sender is a property of that connection, and no peer can claim another's. It is a STREAM: the core reads the frames itself
(wire/zmtp.py), and of what a process sends at most RECEIVE_QUEUE chunks wait here. Endpoints lie in the machine's private folder
and are unlinked as soon as their one client is connected. A full queue never blocks the core: the peer is broken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import zmq

from hypervisor.wire.messages import MAX_MESSAGE, ProtocolError
from hypervisor.wire.zmtp import OUR_HANDSHAKE, Incoming, frame

RECEIVE_QUEUE: Final = 64
"""Chunks (of at most 8 KiB) of one process that may wait in the core; what is beyond them waits in that process."""
SEND_QUEUE: Final = 1000
"""Replies that may wait for one process. There is one at most, but libzmq learns with up to a millisecond's delay which were
read (it looks at its command queue by the TSC), and would refuse a further one meanwhile."""

# Plain ints: zmq's own are enums, whose every `|` and `&` takes longer than a system call.
_NOBLOCK: Final = int(zmq.NOBLOCK)
_MORE_NOBLOCK: Final = int(zmq.SNDMORE | zmq.NOBLOCK)
_EVENTS: Final = int(zmq.EVENTS)
_POLLIN: Final = int(zmq.POLLIN)


Received = tuple[int | None, bytes | ProtocolError]
"""The sender and one message, or what is wrong with that connection. Nobody: a part of a message, or its sender is gone."""
_NOTHING_YET: Final[Received] = (None, b"")


def _plain_send(socket: zmq.Socket[bytes]) -> Callable[..., None]:
    """`socket.send` of pyzmq's backend: without the options that pyzmq's Python part adds, which none of ours needs, and which
    take longer than the rest.
    """
    send: Callable[..., None] = super(zmq.Socket, socket).send
    return send


class CoreEndpoint:
    """The core's end of every domain process's connection. Domain ids are ints."""

    def __init__(self) -> None:
        self.context = zmq.Context(io_threads=1)
        self.context.set(zmq.MAX_SOCKETS, 4096)
        self.socket = self.context.socket(zmq.STREAM)
        for option, value in (
            (zmq.LINGER, 0),
            (zmq.STREAM_NOTIFY, 0),
            (zmq.SNDHWM, SEND_QUEUE),
            (zmq.RCVHWM, RECEIVE_QUEUE),
            (zmq.RECONNECT_IVL, -1),
        ):
            self.socket.setsockopt(option, value)
        self._monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        # A pipe signals its reader only after the reader has once found it empty.
        self._monitor.getsockopt(zmq.EVENTS)
        self._ids: dict[int, bytes] = {}
        self._incoming: dict[bytes, tuple[int, Incoming]] = {}
        self._received: deque[Received] = deque()
        self._recv = self.socket.recv
        self._send_frame = _plain_send(self.socket)
        self._paths: dict[int, str] = {}

    def connect(self, domid: int, path: str) -> None:
        """Connect to the endpoint that the process of `domid` has bound, once: libzmq ends a program that uses an id twice."""
        identity = b"d%d" % domid
        self.socket.setsockopt(zmq.CONNECT_ROUTING_ID, identity)
        self.socket.connect(f"ipc://{path}")
        self._ids[domid], self._incoming[identity], self._paths[domid] = (
            identity,
            (domid, Incoming(MAX_MESSAGE)),
            path,
        )
        self._send(identity, OUR_HANDSHAKE)

    def connected(self, domid: int) -> None:
        """The first message came: the name in the file system has done its work."""
        Path(self._paths[domid]).unlink(missing_ok=True)

    def disconnect(self, domid: int) -> None:
        """Forget a domain's connection and what lies in its queues."""
        identity = self._ids.pop(domid, None)
        if identity is None:
            return
        del self._incoming[identity]
        path = self._paths.pop(domid)
        with suppress(zmq.ZMQError):  # ENOENT: the peer closed its end first, and libzmq has forgotten it
            self.socket.disconnect(f"ipc://{path}")
        Path(path).unlink(missing_ok=True)

    def receive(self) -> Received | None:
        """The next message without waiting, or None."""
        if self._received:
            return self._received.popleft()
        try:
            identity = self._recv(_NOBLOCK)
        except zmq.Again:
            return None
        chunk = self._recv()
        connection = self._incoming.get(identity)
        if connection is None:
            return _NOTHING_YET
        domid, incoming = connection
        try:
            messages = incoming.feed(chunk)
        except ProtocolError as error:
            return domid, error
        if len(messages) == 1:
            return domid, messages[0]
        self._received.extend((domid, message) for message in messages)
        return _NOTHING_YET

    def send(self, domid: int, data: bytes) -> bool:
        """False when the peer's queue is full or its connection gone: it breaks the request-reply rule."""
        identity = self._ids.get(domid)
        return identity is not None and self._send(identity, frame(data))

    def _send(self, identity: bytes, octets: bytes) -> bool:
        try:
            self._send_frame(identity, _MORE_NOBLOCK)
            self._send_frame(octets, _NOBLOCK)
        except zmq.ZMQError:
            return False
        return True

    @property
    def fd(self) -> int:
        """Readable when libzmq has something to tell; `readable` says whether it is a message, and resets it."""
        return int(self.socket.getsockopt(zmq.FD))

    def readable(self) -> bool:
        """Whether `receive` has a message: to be asked before the core sleeps, after anything was sent."""
        return bool(int(self.socket.getsockopt(_EVENTS)) & _POLLIN) or bool(self._received)

    @property
    def monitor_fd(self) -> int:
        """Edge-triggered: look at `broken` when it is readable."""
        return int(self._monitor.getsockopt(zmq.FD))

    def broken(self) -> list[int]:
        """Domains whose connection has ended since the last call: their process closed it."""
        found = []
        while int(self._monitor.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            _event, address = self._monitor.recv_multipart()
            found += [domid for domid, path in self._paths.items() if address == b"ipc://%b" % path.encode()]
        return found

    def close(self) -> None:
        """Disconnects from every process; what was not sent is lost."""
        self.socket.disable_monitor()
        for domid in list(self._ids):
            self.disconnect(domid)
        self.context.destroy(linger=0)
