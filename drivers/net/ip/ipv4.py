"""The IPv4 header: addresses are four bytes here, and text only at the edge to the user.

Source: RFC 791 §3.1, RFC 1122 §3.2.1. Options are skipped, fragments dropped: every sender on these networks knows
the MTU.
"""

import struct
from ipaddress import IPv4Address
from typing import Final, NamedTuple

from drivers.net.checksum import internet_checksum

HEADER: Final = struct.Struct(">BBHHHBBH4s4s")
DONT_FRAGMENT: Final = 0x4000
FRAGMENT: Final = 0x3FFF
"""More fragments follow, or this is not the first."""
TTL: Final = 64
BROADCAST: Final = b"\xff" * 4

ICMP: Final = 1
TCP: Final = 6
UDP: Final = 17


class Datagram(NamedTuple):
    """One packet's addresses and what it carries. `header`: its own first bytes, which ICMP errors quote."""

    source: bytes
    destination: bytes
    protocol: int
    payload: bytes
    header: bytes = b""


def parse(packet: bytes) -> Datagram | None:
    """A whole IPv4 datagram, its padding cut off; None for anything else."""
    if len(packet) < HEADER.size:
        return None
    first, _, length, _, fragment, _, protocol, _, source, destination = HEADER.unpack_from(packet)
    size = (first & 0xF) * 4
    if first >> 4 != 4 or not HEADER.size <= size <= length <= len(packet) or fragment & FRAGMENT:
        return None
    header = packet[:size]
    if internet_checksum(header):
        return None
    return Datagram(source, destination, protocol, packet[size:length], header)


def build(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    """A datagram that must not be fragmented, so that its identification says nothing (RFC 6864)."""
    length = HEADER.size + len(payload)
    fields = (0x45, 0, length, 0, DONT_FRAGMENT, TTL, protocol)
    checksum = internet_checksum(HEADER.pack(*fields, 0, source, destination))
    return HEADER.pack(*fields, checksum, source, destination) + payload


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What TCP and UDP checksums cover besides the segment (RFC 9293 §3.1, RFC 768)."""
    return source + destination + struct.pack(">BBH", 0, protocol, length)


def address_of(text: str | bytes | IPv4Address) -> bytes:
    """Four bytes; ValueError for what is no address."""
    return text if isinstance(text, bytes) and len(text) == 4 else IPv4Address(text).packed


def text_of(address: bytes) -> str:
    """Four bytes as `10.0.0.1`."""
    return ".".join(map(str, address))
