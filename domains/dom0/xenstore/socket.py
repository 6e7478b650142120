"""The unix socket for Xen's own clients (xenstore-ls, libxenstore, pyxs): a transport, and no loop of its
own.

A client that may open the socket counts as the control domain: the file is readable for its owner alone. Everything is
bounded: the number of clients, what one may leave unread (connection.OUTGOING_MAX), what is read ahead
(`Connection.room`). A client that breaks the protocol or stalls is cut off, and nobody else notices.
"""

import socket
from typing import Final

from domains.dom0.listener import Left, Listener, Loop, SocketClient
from domains.dom0.xenstore.server import Xenstored

CLIENTS_MAX: Final = 1024
"""More than this are cut off at once, so that descriptors are left for everything else in Dom0."""
_CHUNK: Final = 64 * 1024


class SocketServer(Listener):
    """The store's clients at the socket `path`."""

    def __init__(self, xenstored: Xenstored, loop: Loop, path: str, clients_max: int = CLIENTS_MAX) -> None:
        super().__init__(loop, path, clients_max, lambda peer, left: _Client(xenstored, loop, peer, left))


class _Client(SocketClient):
    """One accepted socket, the transport of one privileged connection."""

    def __init__(self, xenstored: Xenstored, loop: Loop, peer: socket.socket, left: Left) -> None:
        super().__init__(loop, peer, left)
        self._xenstored = xenstored
        self._connection = xenstored.open(transport=self)
        self._watched.reads(True)

    def _gone(self) -> None:
        self._xenstored.close(self._connection)

    def output_ready(self) -> None:
        if self._connection.dead:
            self.close()
        elif not self._closed:
            self._watched.writes(True)

    def input_wanted(self) -> None:
        if not self._closed:
            self._watched.reads(True)

    def _readable(self) -> None:
        room = self._connection.room
        if room == 0:  # until `input_wanted`
            self._watched.reads(False)
            return
        data = self._receive(room)
        if not data:
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
        self._watched.writes(len(outgoing) > 0)
