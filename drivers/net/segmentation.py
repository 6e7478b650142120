"""A TCP segment that stands for many (XEN_NETIF_EXTRA_TYPE_GSO), and how it is cut for whoever does not take it whole.

    Ethernet ─ IPv4 ─ TCP ─ payload          size: bytes of payload in each segment but the last
       └────────┴──────┴── piece, piece, …   of which each has these headers, with its own length, number and sums

Source: Xen public/io/netif.h; RFC 791, RFC 9293 §3.1, RFC 3168 §6.1.2 for the flags. State code.
"""

import struct
from collections.abc import Iterator
from typing import Final

from drivers.net.checksum import ETHERTYPE, IPV4, TCP, internet_checksum, partial_checksum, transport
from drivers.net.protocol import Packet

MAX_SEGMENTS: Final = 128
"""More are one guest's way to make work for others."""
IP_AT: Final = 14
LENGTH_AT, IP_SUM_AT = IP_AT + 2, IP_AT + 10
SEQ, OFFSET, FLAGS, SUM = 4, 12, 13, 16
"""Where these are in a TCP header."""
FIN_PSH: Final = 0x09
CWR: Final = 0x80


def payload_at(frame: bytes) -> tuple[int, int] | None:
    """Where the TCP header and its payload begin in a frame that holds a whole TCP segment over IPv4 and nothing else."""
    found = transport(frame)
    if found is None or frame[ETHERTYPE:IP_AT] != IPV4:
        return None
    start, end, protocol, _ = found
    if protocol != TCP or end != len(frame) or end - start < 20:
        return None
    payload = start + (frame[start + OFFSET] >> 4) * 4
    return (start, payload) if start + 20 <= payload < end else None


def can_split(frame: bytes, size: int) -> bool:
    """Whether it is such a segment, and of not too many."""
    found = payload_at(frame)
    return found is not None and size > 0 and len(frame) - found[1] <= size * MAX_SEGMENTS


def segments_of(packet: Packet, most: int) -> Packet:
    """The packet as one that stands for segments of at most `most` bytes, whatever its sender has said of them; itself if it
    fits, or cannot be cut.
    """
    if len(packet.data) <= most:
        return packet
    found = payload_at(packet.data)
    size = most - found[1] if found is not None else 0
    size = min(size, packet.gso_size or size)
    return packet._replace(gso_size=size) if can_split(packet.data, size) else packet


def split(packet: Packet) -> Iterator[Packet]:
    """The packets that one stands for, their TCP checksums blank; itself if that is one."""
    frame, size = packet.data, packet.gso_size
    found = payload_at(frame)
    if not size or found is None:
        yield packet
        return
    start, payload = found
    addresses = transport(frame)[3]  # type: ignore[index]
    header = bytearray(frame[:payload])
    sequence, identification = struct.unpack_from(">I", frame, start + SEQ)[0], frame[LENGTH_AT + 2 :][:2]
    for number, at in enumerate(range(payload, len(frame), size)):
        piece = frame[at : at + size]
        flags = frame[start + FLAGS]
        if at + size < len(frame):
            flags &= ~FIN_PSH
        if number:
            flags &= ~CWR
        header[start + FLAGS] = flags
        struct.pack_into(">I", header, start + SEQ, (sequence + at - payload) & 0xFFFF_FFFF)
        id = (int.from_bytes(identification, "big") + number) & 0xFFFF
        struct.pack_into(">HH", header, LENGTH_AT, payload - IP_AT + len(piece), id)
        struct.pack_into(">H", header, IP_SUM_AT, 0)
        struct.pack_into(">H", header, IP_SUM_AT, internet_checksum(bytes(header[IP_AT:start])))
        pseudo = addresses + struct.pack(">HH", TCP, payload - start + len(piece))
        struct.pack_into(">H", header, start + SUM, partial_checksum(pseudo))
        yield Packet(bytes(header) + piece, csum_blank=True)
