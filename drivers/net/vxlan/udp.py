"""The UDP sockets of a VTEP: one that receives at its port, and several that send, so that flows have source ports of their own.

Packets leave with "don't fragment" (RFC 7348 §4.3: a VTEP must not fragment): what is too long on the way is refused by the
host, or lost, and never comes in pieces.

Source: ip(7), ipv6(7), udp(7).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final

SENDERS: Final = 8
RECEIVE_BUFFER: Final = 4 << 20
"""Bytes that may wait to be read, as far as the host grants them (net.core.rmem_max)."""
SEND_BUFFER: Final = 1 << 20
LARGEST: Final = 65535
DISCARD_PORT: Final = 9
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO = 23, 2


class UdpError(Exception):
    """There can be no such socket; the reason is one line."""


class UdpEnd:
    """Sockets at `port` of address `host`, or of all of the host's addresses. Raises UdpError."""

    def __init__(self, host: str, port: int) -> None:
        self._family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._sockets: list[socket.socket] = []
        try:
            self._receiver = self._made(host, port)
            self._senders = [self._made(host, 0) for _ in range(SENDERS)]
        except OSError as error:
            self.close()
            raise UdpError(f"cannot use UDP port {port} of {host}: {why(error)}") from None
        self._receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        for sender in self._senders:  # nobody has a reason to send there, and nothing is read
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def fileno(self) -> int:
        """The descriptor that is readable when a packet has come."""
        return self._receiver.fileno()

    def receive(self) -> tuple[bytes, str] | None:
        """The next packet, and the address it comes from; None if there is none now."""
        try:
            packet, sender = self._receiver.recvfrom(LARGEST)
        except OSError:
            return None
        return packet, sender[0]

    def send(self, packet: bytes, end: tuple[str, int], flow: int) -> bool:
        """Whether the host takes a packet for `end`, from the port of that flow."""
        try:
            self._senders[flow % SENDERS].sendto(packet, end)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Harmless if it is closed already."""
        for one in self._sockets:
            one.close()

    def _made(self, host: str, port: int) -> socket.socket:
        """A bound socket. OSError: it cannot be."""
        made = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self._sockets.append(made)
        if self._family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.setsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DO)
        else:
            made.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DO)
        made.bind((host, port))
        return made


def why(error: OSError) -> str:
    """What the host says, and what to do about what users meet."""
    if error.errno == errno.EADDRINUSE:
        return "another program has it; choose another port, or an address of its own"
    if error.errno == errno.EADDRNOTAVAIL:
        return "the host has no such address"
    return error.strerror or str(error)


def local_among(hosts: Sequence[str]) -> set[str]:
    """Those of these addresses that are this host's own: it would speak to them from that very address."""
    return {
        host for host in hosts if host.startswith("127.") or host == "::1" or source_towards(host) == host
    }


def source_towards(host: str) -> str | None:
    """The address from which this host speaks to another one; None: there is no way to that. Nothing is sent."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as one:
            one.connect((host, DISCARD_PORT))
            address: str = one.getsockname()[0]
    except OSError:
        return None
    return address
