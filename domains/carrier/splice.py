"""One connection in the carrier: bytes between a socket whose other end Dom0 has, and another carrier's ZeroMQ.

Dom0 ── stream socket ──► up to CHUNK bytes, if there is credit ──► one message ──► the other carrier
     ◄── as it takes them ── held, WINDOW bytes at most ◄────────── messages ◄─────
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable

from domains.carrier.chunks import CHUNK, Flow, Kind

Transmit = Callable[[bytes], bool]
"""Give ZeroMQ a message; False if it takes no more now. Raises Gone."""


class Gone(Exception):
    """The other carrier is not there any more."""


class Splice:
    """Its methods are called by the carrier's loop, and do not wait. `over`: nothing more can be done for it."""

    def __init__(self, dom0: socket.socket, transmit: Transmit) -> None:
        self.dom0 = dom0
        self._transmit = transmit
        self._flow = Flow()
        self._out: deque[bytes] = deque()
        """Messages that ZeroMQ has not taken yet: few, for nothing is read from Dom0 meanwhile."""
        self._held: deque[memoryview] = deque()
        self._read_ended = False
        self.over = False
        dom0.setblocking(False)

    @property
    def wants_read(self) -> bool:
        """Whether more of Dom0's bytes can be sent."""
        return not (self._read_ended or self._out) and self._flow.may_send > 0

    @property
    def wants_write(self) -> bool:
        """Whether there are bytes that Dom0 has not taken yet."""
        return bool(self._held)

    @property
    def stuck(self) -> bool:
        """Whether there are messages that ZeroMQ has not taken yet."""
        return bool(self._out)

    def readable(self) -> None:
        """Dom0's end may have bytes, or has been closed. Raises Gone."""
        if not self.wants_read:
            return
        try:
            data = self.dom0.recv(min(CHUNK, self._flow.may_send))
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.say(self._flow.sending(data))
        else:
            self._read_ended = True
            self.say(bytes((Kind.END,)))

    def writable(self) -> None:
        """Dom0's end may take bytes. Raises Gone."""
        while self._held:
            try:
                size = self.dom0.send(self._held[0], socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return
            except OSError:
                raise Gone from None
            if size == len(self._held[0]):
                self._held.popleft()
            else:
                self._held[0] = self._held[0][size:]
            if (credit := self._flow.taken(size)) is not None:
                self.say(credit)
        self._finish()

    def came(self, message: memoryview) -> None:
        """The other carrier has said something. Raises Violation, Gone."""
        data = self._flow.came(message)
        if data:
            self._held.append(data)
        self.writable()

    def say(self, message: bytes) -> None:
        """Send a message, after those that ZeroMQ has not taken yet. Raises Gone."""
        self._out.append(message)
        self.go_on()

    def go_on(self) -> None:
        """Send what can be sent of the messages that are due. Raises Gone."""
        while self._out and self._transmit(self._out[0]):
            self._out.popleft()
        self._finish()

    def _finish(self) -> None:
        if (self._flow.ended and not self._held) or (self._read_ended and not self._out):
            self.over = True
