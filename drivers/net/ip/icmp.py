"""ICMP: answers to ping, pings of our own, and "port unreachable".

Source: RFC 792, RFC 1122 §3.2.2. Errors are sent only for datagrams that were for this host alone.
"""

import struct
from collections.abc import Callable
from typing import Final

from drivers.net.checksum import internet_checksum
from drivers.net.ip.ipv4 import ICMP, Datagram

HEADER: Final = struct.Struct(">BBHHH")
ECHO_REPLY, UNREACHABLE, ECHO_REQUEST = 0, 3, 8
PORT_UNREACHABLE: Final = 3
QUOTED: Final = 8
"""Bytes of the payload that an error quotes."""

Reply = Callable[[bytes, bytes], None]
"""(who answered, the payload of the answer)"""


class Icmp:
    """`send(destination, protocol, payload)` sends a datagram; `unreachable(quoted datagram)` is told of errors."""

    def __init__(
        self, send: Callable[[bytes, int, bytes], None], unreachable: Callable[[bytes, bytes], None]
    ) -> None:
        self._send = send
        self._unreachable = unreachable
        self._waiting: dict[tuple[int, int], Reply] = {}

    def receive(self, datagram: Datagram, *, to_all: bool) -> None:
        """An ICMP message; `to_all`: it was a broadcast, which nobody answers."""
        message = datagram.payload
        if len(message) < HEADER.size or internet_checksum(message):
            return
        kind, code, _, identifier, sequence = HEADER.unpack_from(message)
        if kind == ECHO_REQUEST and code == 0 and not to_all:
            self._send(datagram.source, ICMP, echo(ECHO_REPLY, identifier, sequence, message[HEADER.size :]))
        elif kind == ECHO_REPLY:
            if waiting := self._waiting.get((identifier, sequence)):
                waiting(datagram.source, message[HEADER.size :])
        elif kind == UNREACHABLE:
            self._unreachable(datagram.source, message[HEADER.size :])

    def ping(self, destination: bytes, identifier: int, sequence: int, payload: bytes, reply: Reply) -> None:
        """Send an echo request; each answer goes to `reply`, until `forget`."""
        self._waiting[identifier, sequence] = reply
        self._send(destination, ICMP, echo(ECHO_REQUEST, identifier, sequence, payload))

    def forget(self, identifier: int, sequence: int) -> None:
        """No answer is wanted any more."""
        self._waiting.pop((identifier, sequence), None)

    def refuse_port(self, datagram: Datagram) -> None:
        """Tell the sender of a datagram that nobody listens."""
        quoted = datagram.header + datagram.payload[:QUOTED]
        message = HEADER.pack(UNREACHABLE, PORT_UNREACHABLE, 0, 0, 0) + quoted
        self._send(datagram.source, ICMP, with_checksum(message))


def echo(kind: int, identifier: int, sequence: int, payload: bytes) -> bytes:
    """An echo request or reply, with its checksum."""
    return with_checksum(HEADER.pack(kind, 0, 0, identifier, sequence) + payload)


def with_checksum(message: bytes) -> bytes:
    """The message, its checksum field of zero filled in."""
    return message[:2] + internet_checksum(message).to_bytes(2, "big") + message[4:]
