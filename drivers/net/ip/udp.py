"""UDP: datagrams by port.

Source: RFC 768, RFC 1122 §4.1. A port's owner gets each datagram as it comes; nothing is kept here.
"""

import struct
from collections.abc import Callable
from typing import Final

from drivers.net.checksum import internet_checksum, partial_checksum
from drivers.net.ip.ipv4 import UDP, Datagram, pseudo_header

HEADER: Final = struct.Struct(">HHHH")
FIRST_EPHEMERAL: Final = 49152

Received = Callable[[bytes, int, bytes], None]
"""(address, port, data) of one datagram"""


class PortInUse(Exception):
    """Somebody of this host has the port, or all of them."""


class Udp:
    """The UDP ports of a host. `send(destination, protocol, payload)` sends a datagram, `offload`: and fills in its
    checksum.
    """

    def __init__(
        self, address: bytes, send: Callable[[bytes, int, bytes], None], offload: bool = False
    ) -> None:
        self._address = address
        self._send = send
        self._offload = offload
        self._ports: dict[int, Received] = {}

    def bind(self, port: int, received: Received) -> int:
        """Have `received` called for each datagram to `port`, 0: any free one; the port. Raises PortInUse."""
        if port == 0:
            port = next((p for p in range(FIRST_EPHEMERAL, 65536) if p not in self._ports), 0)
        if port == 0 or port in self._ports:
            raise PortInUse(f"UDP port {port} is in use")
        self._ports[port] = received
        return port

    def close(self, port: int) -> None:
        """Gives the port up; datagrams to it are refused again."""
        del self._ports[port]

    def send_to(self, source_port: int, destination: bytes, port: int, data: bytes) -> None:
        """Send one datagram."""
        length = HEADER.size + len(data)
        segment = HEADER.pack(source_port, port, length, 0) + data
        pseudo = pseudo_header(self._address, destination, UDP, length)
        sum_ = partial_checksum(pseudo) if self._offload else internet_checksum(pseudo + segment)
        segment = HEADER.pack(source_port, port, length, sum_ or 0xFFFF) + data  # zero: there is none
        self._send(destination, UDP, segment)

    def receive(self, datagram: Datagram, *, trusted: bool) -> bool:
        """A UDP datagram; False if nobody listens at its port. `trusted`: the device vouches for its checksum."""
        segment = datagram.payload
        if len(segment) < HEADER.size:
            return True
        source_port, port, length, checksum = HEADER.unpack_from(segment)
        if not HEADER.size <= length <= len(segment):
            return True
        segment = segment[:length]
        pseudo = pseudo_header(datagram.source, datagram.destination, UDP, length)
        if checksum and not trusted and internet_checksum(pseudo + segment):
            return True
        received = self._ports.get(port)
        if received is None:
            return False
        received(datagram.source, source_port, segment[HEADER.size :])
        return True
