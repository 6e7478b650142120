"""What two carriers say to each other over ZeroMQ: a stream of bytes each way, and who may send how much of it.

    HELLO version              the client's first message, and the server's answer
    DATA bytes                 CHUNK at most, and no more than the other side has given credit for
    CREDIT u32                 so many bytes more may be sent: those before have been taken by this side's Dom0
    END                        nothing more is sent
    PING                       a server's, each second: to a client that is gone it cannot be sent

A message is one frame. So neither side ever holds more than WINDOW bytes of a connection, whoever does not read and whoever
floods. No sockets here.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

VERSION: Final = b"xenoscope 1"
CHUNK: Final = 1 << 18
"""Bytes in one message of DATA."""
LARGEST: Final = CHUNK + 1
"""Bytes of a message."""
WINDOW: Final = 4 << 20
"""Bytes that may be on their way, each way."""
QUANTUM: Final = 1 << 19
"""So many bytes at least are given credit for at a time."""


class Kind(IntEnum):
    """A message's first byte."""

    HELLO = 1
    DATA = 2
    CREDIT = 3
    END = 4
    PING = 5


class Violation(Exception):
    """The other carrier does not keep to this; `str()` is one line."""


class Flow:
    """One connection as one side sees it."""

    def __init__(self) -> None:
        self.may_send = WINDOW
        """Bytes that the other side has given credit for."""
        self.ended = False
        """The other side sends no more."""
        self._may_come = WINDOW
        self._taken = 0

    def sending(self, data: bytes) -> bytes:
        """The message for these bytes, of which there are at most CHUNK and `may_send`."""
        self.may_send -= len(data)
        return bytes((Kind.DATA,)) + data

    def came(self, message: memoryview) -> memoryview:
        """What a message brings for this side's Dom0; most bring nothing. Raises Violation."""
        if not message or self.ended:
            raise Violation("the other side says more after its end, or nothing")
        kind, body = message[0], message[1:]
        if kind == Kind.DATA:
            self._may_come -= len(body)
            if self._may_come < 0:
                raise Violation("the other side sends more than it may")
            return body
        if kind == Kind.CREDIT and len(body) == 4:
            self.may_send += struct.unpack("<I", body)[0]
            if self.may_send > WINDOW:
                raise Violation("the other side gives credit for more than was sent")
        elif kind == Kind.END:
            self.ended = True
        elif kind == Kind.HELLO:
            if bytes(body) != VERSION:
                raise Violation("the other side is of another version of Xenoscope")
        elif kind != Kind.PING:
            raise Violation("the other side says what no machine of this version says")
        return memoryview(b"")

    def taken(self, size: int) -> bytes | None:
        """Dom0 has taken so many bytes: the message that gives credit for them, once that is worth one."""
        self._taken += size
        if self._taken < QUANTUM:
            return None
        message = struct.pack("<BI", Kind.CREDIT, self._taken)
        self._may_come += self._taken
        self._taken = 0
        return message


def hello() -> bytes:
    """The first message."""
    return bytes((Kind.HELLO,)) + VERSION
