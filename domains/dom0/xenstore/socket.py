"""The unix socket for Xen's own clients (xenstore-ls, libxenstore, pyxs): a transport, and no loop of its
own.

A client that may open the socket counts as the control domain: the file is readable for its owner alone. Everything is
bounded: the number of clients, what one may leave unread (connection.OUTGOING_MAX), what is read ahead
(`Connection.room`). A client that breaks the protocol or stalls is cut off, and nobody else notices.
"""

import os
import socket
from collections.abc import Callable
from typing import Final, Protocol

from domains.dom0.xenstore.server import Xenstored

CLIENTS_MAX: Final = 1024
"""More than this are cut off at once, so that descriptors are left for everything else in Dom0."""
_BACKLOG: Final = 64
_CHUNK: Final = 64 * 1024


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


class SocketServer:
    """Listens at `path`, which must not exist yet (OSError otherwise) and is removed by `close`."""

    def __init__(self, xenstored: Xenstored, loop: Loop, path: str, clients_max: int = CLIENTS_MAX) -> None:
        self._xenstored = xenstored
        self._loop = loop
        self._path = path
        self._clients_max = clients_max
        self._clients: dict[_Client, None] = {}
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        try:
            self._listener.bind(path)
            os.chmod(path, 0o600)
            self._listener.listen(_BACKLOG)
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
            self._clients[_Client(self._xenstored, self._loop, peer, self._left)] = None

    def _left(self, client: "_Client") -> None:
        self._clients.pop(client, None)
        if not self._accepting:
            self._accepting = True
            self._loop.add_reader(self._listener.fileno(), self._accept)


class _Client:
    """One accepted socket, the transport of one privileged connection."""

    def __init__(
        self, xenstored: Xenstored, loop: Loop, peer: socket.socket, left: Callable[["_Client"], None]
    ) -> None:
        self._xenstored = xenstored
        self._loop = loop
        self._peer = peer
        self._left = left
        self._closed = False
        self._reading = False
        self._writing = False
        self._connection = xenstored.open(transport=self)
        self._watch_input(True)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._watch_input(False)
        self._watch_output(False)
        self._xenstored.close(self._connection)
        self._peer.close()
        self._left(self)

    def output_ready(self) -> None:
        if self._connection.dead:
            self.close()
        elif not self._closed:
            self._watch_output(True)

    def input_wanted(self) -> None:
        if not self._closed:
            self._watch_input(True)

    def _readable(self) -> None:
        room = self._connection.room
        if room == 0:  # until `input_wanted`
            self._watch_input(False)
            return
        try:
            data = self._peer.recv(room)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self._connection.feed(data)
        if not self._closed and len(self._connection.outgoing):
            self._writable()

    def _writable(self) -> None:
        outgoing = self._connection.outgoing
        try:
            outgoing.advance(self._peer.send(outgoing.peek(_CHUNK), socket.MSG_NOSIGNAL))
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        self._watch_output(len(outgoing) > 0)

    def _watch_input(self, wanted: bool) -> None:
        if wanted != self._reading:
            self._reading = wanted
            if wanted:
                self._loop.add_reader(self._peer.fileno(), self._readable)
            else:
                self._loop.remove_reader(self._peer.fileno())

    def _watch_output(self, wanted: bool) -> None:
        if wanted != self._writing:
            self._writing = wanted
            if wanted:
                self._loop.add_writer(self._peer.fileno(), self._writable)
            else:
                self._loop.remove_writer(self._peer.fileno())
