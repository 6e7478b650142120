"""How this machine's Dom0 is connected with others: by a socket in a machine's folder, or by the carrier.

    folder/migration      another machine of the same user; whoever may enter the folder may connect
    carrier               machines elsewhere, whose keys are known (domains/carrier)

Both are plain streams for a Connection. A connection that comes says first what it is for: OFFER, or ASK.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from domains.dom0.listener import Left, Listener
from domains.dom0.toolstack.migrating.connection import Connection, Lost
from domains.kernel.kernel import Kernel
from domains.kernel.tasks import NEXT_TURN, Task
from hypervisor.wire import descriptors
from hypervisor.wire.descriptors import Note

SOCKET: Final = "migration"
"""In a machine's folder."""
CONNECTIONS_MOST: Final = 16
"""That others have made and that have not ended; one more is cut off."""

Comes = Callable[[Connection], None]
"""What is done with a connection that another machine has made."""


class Links:
    """One per Dom0. `carrier`: a socket to the carrier's process."""

    def __init__(self, kernel: Kernel, folder: Path, carrier: socket.socket, comes: Comes) -> None:
        self._kernel = kernel
        self._name = folder.name
        self._carrier = carrier
        self._comes = comes
        self._here: dict[Connection, None] = {}
        carrier.setblocking(False)
        kernel.add_reader(carrier.fileno(), self._carried)
        self._listener = Listener(kernel, str(folder / SOCKET), CONNECTIONS_MOST, self._accepted)

    def close(self) -> None:
        """Take no more, and end all."""
        self._listener.close()
        self._kernel.remove_reader(self._carrier.fileno())
        for connection in list(self._here):
            connection.close()

    # --- connections that come -------------------------------------------------------------------

    def _accepted(self, peer: socket.socket, left: Left) -> Caller:
        connection = self._take(peer, "the other machine")
        caller = Caller(connection)

        def ended() -> None:
            self._forget(connection)
            left(caller)

        connection.when_lost = ended
        return caller

    def _carried(self) -> None:
        """The carrier has a machine that has connected, or is gone."""
        try:
            received = descriptors.receive(self._carrier)
        except BlockingIOError:
            return
        except (OSError, ValueError):
            received = None
        if received is None:
            self._kernel.remove_reader(self._carrier.fileno())
            return
        if received.note[0] != Note.CARRIED or len(received.fds) != 1 or len(self._here) >= CONNECTIONS_MOST:
            received.close()
            return
        _, _key, address = received.note
        self._take(socket.socket(fileno=received.fds[0]), f"the machine at {address}")

    def _take(self, peer: socket.socket, name: str) -> Connection:
        connection = Connection(self._kernel, peer, name)
        self._here[connection] = None
        connection.when_lost = partial(self._forget, connection)
        self._kernel.call_soon(lambda: self._comes(connection))
        return connection

    def _forget(self, connection: Connection) -> None:
        self._here.pop(connection, None)

    # --- connections that are made ---------------------------------------------------------------

    def to_folder(self, folder: str) -> Task[Connection]:
        """With the machine of that folder. Raises Lost."""
        name = os.path.basename(folder)
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        peer.setblocking(False)
        try:
            peer.connect(os.path.join(folder, SOCKET))
        except OSError as error:
            peer.close()
            raise Lost(f"machine '{name}' cannot be reached: {error.strerror}") from None
        yield NEXT_TURN
        return Connection(self._kernel, peer, f"machine '{name}'")

    def to_place(self, place: str, key: str) -> Task[Connection]:
        """With the machine at HOST:PORT which has this key. Raises Lost; what is wrong may be told by the connection later."""
        ours, theirs = socket.socketpair()
        try:
            descriptors.send(self._carrier, [int(Note.CARRY), place, key], (theirs.fileno(),))
        except OSError as error:
            ours.close()
            raise Lost(f"the process that carries migrations cannot be asked: {error.strerror}") from None
        finally:
            theirs.close()
        yield NEXT_TURN
        return Connection(self._kernel, ours, f"the machine at {place}")


class Caller:
    """A connection that came by the folder's socket, as its listener knows it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def close(self) -> None:
        """See Client."""
        self._connection.close()
