"""The core's end of the hypercall path, in ZeroMQ; a process's is in process_endpoint.py.

The core connects *out* to each domain process's own endpoint: a message's sender is a property of that connection, and no peer
can claim another's. It reads and writes the frames itself (wire/zmtp.py), in its own thread: libzmq would have a second one,
which would have to be woken for each message on its way in and on its way out. Endpoints lie in the machine's private folder and
are unlinked as soon as their one client is connected.

    process ── bytes ──► socket ──recv, one chunk a turn──► Incoming ──► messages ──► `receive`
            ◄── socket ◄──send── what the socket does not take waits here, SEND_QUEUE replies at most

What a process sends and nobody has read yet waits in its own socket, which holds it up, and of which the core reads one chunk at
a time. Nothing here waits for a process.
"""

from __future__ import annotations

import select
import socket
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final

from hypervisor.wire.errors import ConnectionEnded, ProtocolError
from hypervisor.wire.messages import MAX_MESSAGE
from hypervisor.wire.zmtp import OUR_HANDSHAKE, Incoming, frame

CHUNK: Final = 8192
"""Bytes that are read of one process before it is the next one's turn."""
SEND_QUEUE: Final = 1000
"""Replies that may wait for a process which does not read them. An honest one waits for one at most."""

_IN: Final = int(select.EPOLLIN)
_OUT: Final = int(select.EPOLLOUT)

Received = tuple[int | None, bytes | ProtocolError]
"""The sender and one message, or what is wrong with that connection. Nobody: what came is no whole message yet."""
_NOTHING_YET: Final[Received] = (None, b"")


class Connection:
    """With one domain process, of the domain id `domid`."""

    __slots__ = ("domid", "fd", "incoming", "path", "socket", "unsent")

    def __init__(self, domid: int, path: str) -> None:
        """Raises ProtocolError if nobody is there: the process has said that it is."""
        self.domid = domid
        self.path = path
        self.incoming = Incoming(MAX_MESSAGE)
        self.unsent: deque[bytes] = deque()
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self.socket.connect(path)
        except OSError as error:
            self.socket.close()
            raise ProtocolError(f"its endpoint cannot be reached: {error.strerror or error}") from None
        self.fd = self.socket.fileno()

    def send(self, octets: bytes) -> int:
        """How many of the bytes the socket takes now. What is sent to a process that has closed its end is lost."""
        try:
            return self.socket.send(octets)
        except BlockingIOError:
            return 0
        except OSError:
            return len(octets)

    def read(self) -> bytes | None:
        """What has come, one chunk at most; nothing (b"") if the process has closed its end, None if nothing has come."""
        try:
            return self.socket.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""


class CoreEndpoint:
    """The core's end of every domain process's connection. Domain ids are ints."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._by_domid: dict[int, Connection] = {}
        self._by_fd: dict[int, Connection] = {}
        self._ready: deque[tuple[int, int]] = deque()
        """Descriptors that were found ready, and for what, and were not looked at yet."""
        self._received: deque[Received] = deque()
        self.fd: Final = self._epoll.fileno()
        """Readable while there is something to `receive` that was not found ready before."""

    def connect(self, domid: int, path: str) -> None:
        """Connect to the endpoint that the process of `domid` has bound, once. Raises ProtocolError if it has not."""
        connection = Connection(domid, path)
        self._by_domid[domid] = self._by_fd[connection.fd] = connection
        self._epoll.register(connection.fd, _IN)
        self._send(connection, OUR_HANDSHAKE)

    def connected(self, domid: int) -> None:
        """The first message came: the name in the file system has done its work."""
        Path(self._by_domid[domid].path).unlink(missing_ok=True)

    def disconnect(self, domid: int) -> None:
        """Forget a domain's connection, and what came over it."""
        connection = self._by_domid.pop(domid, None)
        if connection is None:
            return
        self._unwatch(connection)
        connection.socket.close()
        self._received = deque(one for one in self._received if one[0] != domid)
        Path(connection.path).unlink(missing_ok=True)

    def receive(self) -> Received | None:
        """The next message without waiting, or None. Each process whose bytes have come has its turn, of one chunk."""
        if self._received:
            return self._received.popleft()
        if not self._ready:
            self._ready.extend(self._epoll.poll(0))
            if not self._ready:
                return None
        fd, events = self._ready.popleft()
        connection = self._by_fd.get(fd)
        if connection is None:
            return _NOTHING_YET
        if events & _OUT:
            self._send_more(connection)
        message = self._read(connection) if events & ~_OUT else None
        return _NOTHING_YET if message is None else (connection.domid, message)

    def _read(self, connection: Connection) -> bytes | ProtocolError | None:
        """The first message of a chunk; others of it are put down as received."""
        chunk = connection.read()
        if chunk is None:
            return None
        if not chunk:
            self._unwatch(connection)
            return ConnectionEnded("its connection broke")
        try:
            messages = connection.incoming.feed(chunk)
        except ProtocolError as error:
            self._unwatch(connection)
            return error
        if not messages:
            return None
        if len(messages) > 1:
            self._received.extend((connection.domid, message) for message in messages[1:])
        return messages[0]

    def send(self, domid: int, data: bytes) -> bool:
        """False if too many replies wait for the process, or it has no connection: it breaks the request-reply rule."""
        connection = self._by_domid.get(domid)
        return connection is not None and self._send(connection, frame(data))

    def _send(self, connection: Connection, octets: bytes) -> bool:
        if connection.unsent:
            if len(connection.unsent) >= SEND_QUEUE:
                return False
            connection.unsent.append(octets)
            return True
        taken = connection.send(octets)
        if taken < len(octets):
            connection.unsent.append(octets[taken:])
            self._watch(connection, _IN | _OUT)
        return True

    def _send_more(self, connection: Connection) -> None:
        """The socket has room again."""
        unsent = connection.unsent
        while unsent:
            octets = unsent.popleft()
            taken = connection.send(octets)
            if taken < len(octets):
                unsent.appendleft(octets[taken:])
                return
        self._watch(connection, _IN)

    def _watch(self, connection: Connection, events: int) -> None:
        if connection.fd in self._by_fd:
            self._epoll.modify(connection.fd, events)

    def _unwatch(self, connection: Connection) -> None:
        """Read nothing more of it."""
        if self._by_fd.pop(connection.fd, None) is not None:
            self._epoll.unregister(connection.fd)

    def readable(self) -> bool:
        """Whether something that was found ready is still to be received; of what comes later `fd` tells."""
        return bool(self._received or self._ready)

    def close(self) -> None:
        """Disconnects from every process; what was not sent is lost."""
        for domid in list(self._by_domid):
            self.disconnect(domid)
        with suppress(OSError):
            self._epoll.close()
