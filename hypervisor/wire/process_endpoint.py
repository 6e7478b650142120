"""A domain process's end of the hypercall path: a DEALER whose only peer is the core.

It speaks ZMTP itself (wire/zmtp.py), over a plain socket. A process waits for one answer at a time, in the thread that asked;
with libzmq a second thread would have to be woken for each message, on its way out and on its way in.
"""

from __future__ import annotations

import os
import select
import socket
from collections import deque
from typing import Final

from hypervisor.wire.zmtp import Incoming, frame, handshake

CHUNK: Final = 1 << 14
"""Bytes read at a time."""
MAX_REPLY: Final = 1 << 28
"""Bytes of the largest reply; its sender is trusted."""


class ProcessEndpoint:
    """Bound at once; the core connects as soon as it knows. The process ends when the connection does: nobody is left to ask."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._connection: socket.socket | None = None
        self._incoming = Incoming(MAX_REPLY)
        self._messages: deque[bytes] = deque()

    @property
    def socket(self) -> socket.socket:
        """The connection; waits until the core has made it, and both have said who they are."""
        if self._connection is None:
            self._connection, _ = self._listener.accept()
            self._listener.close()
            self._connection.sendall(handshake(b"DEALER"))
            while not self._incoming.ready:
                self._read(0)
        return self._connection

    def fileno(self) -> int:
        """Readable when something has come."""
        return self.socket.fileno()

    def send(self, data: bytes) -> None:
        """One message."""
        try:
            self.socket.sendall(frame(data))
        except OSError:
            os._exit(1)

    def recv(self) -> bytes:
        """The next message; waits for it."""
        while not self._messages:
            self._read(0)
        return self._messages.popleft()

    def receive(self) -> bytes | None:
        """The next message without waiting, or None."""
        while not self._messages:
            try:
                self._read(socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
        return self._messages.popleft()

    def readable(self) -> bool:
        """Whether something of the core has come."""
        if self._messages:
            return True
        poll = select.poll()
        poll.register(self.socket, select.POLLIN)
        return bool(poll.poll(0))

    def _read(self, flags: int) -> None:
        """Take in what has come. BlockingIOError: nothing has, and `flags` say not to wait."""
        try:
            chunk = self.socket.recv(CHUNK, flags)
        except BlockingIOError:
            raise
        except OSError:
            chunk = b""
        if not chunk:
            os._exit(1)
        self._messages.extend(self._incoming.feed(chunk))
