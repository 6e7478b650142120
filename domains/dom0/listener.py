"""A unix socket in the machine's folder at which many clients may be: a bounded number of them, and none whom others wait for.

A client that may open the socket counts as Dom0's user: the file is readable for its owner alone.
"""

import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

BACKLOG: Final = 64


class Loop(Protocol):
    """What calls back when a descriptor is ready. Level-triggered: again and again, as long as it is."""

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Has `callback` called whenever the descriptor can be read."""

    def remove_reader(self, fd: int) -> None:
        """Ends add_reader."""

    def add_writer(self, fd: int, callback: Callable[[], None]) -> None:
        """Has `callback` called whenever the descriptor can be written."""

    def remove_writer(self, fd: int) -> None:
        """Ends add_writer."""


class Client(Protocol):
    """One who has been accepted; it calls `left` once, when it goes or is closed."""

    def close(self) -> None:
        """Cut it off."""


Left = Callable[[Client], None]


class Listener:
    """Listens at `path`, which must not exist yet (OSError otherwise) and is removed by `close`. `accepted` makes a client of
    each socket, which does not block; more than `clients_max` at once are cut off, so that descriptors are left for all else.
    """

    def __init__(
        self, loop: Loop, path: str, clients_max: int, accepted: Callable[[socket.socket, Left], Client]
    ) -> None:
        self._loop = loop
        self._path = path
        self._clients_max = clients_max
        self._accepted = accepted
        self._clients: dict[Client, None] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            self._listener.bind(path)
            os.chmod(path, 0o600)
            self._listener.listen(BACKLOG)
        except OSError:
            self._listener.close()
            raise
        self._accepting = True
        loop.add_reader(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """Cut off all clients and remove the socket."""
        for client in list(self._clients):
            client.close()
        if self._accepting:
            self._loop.remove_reader(self._listener.fileno())
        self._listener.close()
        os.unlink(self._path)

    def _accept(self) -> None:
        while True:
            try:
                peer, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors: try again when a client has left
                self._accepting = False
                self._loop.remove_reader(self._listener.fileno())
                return
            if len(self._clients) >= self._clients_max:
                peer.close()
                continue
            peer.setblocking(False)
            self._clients[self._accepted(peer, self._left)] = None

    def _left(self, client: Client) -> None:
        self._clients.pop(client, None)
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)


class Watched:
    """Whether one descriptor is watched for reading, and whether for writing."""

    def __init__(
        self, loop: Loop, fd: int, readable: Callable[[], None], writable: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._fd = fd
        self._readable = readable
        self._writable = writable
        self._reading = False
        self._writing = False

    def reads(self, wanted: bool) -> None:
        """Have `readable` called whenever it can be read, or no more."""
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._fd, self._readable)
            else:
                self._loop.remove_reader(self._fd)

    def writes(self, wanted: bool) -> None:
        """Have `writable` called whenever it can be written, or no more."""
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)


class SocketClient:
    """An accepted socket: a `Client`, whose kind of conversation a class of its own says. Nothing of it blocks."""

    def __init__(self, loop: Loop, peer: socket.socket, left: Left) -> None:
        self._peer = peer
        self._left = left
        self._closed = False
        self._watched = Watched(loop, peer.fileno(), self._readable, self._writable)

    def close(self) -> None:
        """Cut it off. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._watched.reads(False)
        self._watched.writes(False)
        self._gone()
        self._peer.close()
        self._left(self)

    def _receive(self, most: int) -> bytes:
        """What it has sent, so many bytes at most; nothing: there is nothing yet, or it has gone and is closed now."""
        try:
            data = self._peer.recv(most)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        if not data:
            self.close()
        return data

    def _gone(self) -> None:
        """Let go of what the conversation held."""
        raise NotImplementedError

    def _readable(self) -> None:
        raise NotImplementedError

    def _writable(self) -> None:
        raise NotImplementedError
