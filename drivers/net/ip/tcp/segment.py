"""The TCP header.

Source: RFC 9293 §3.1; MSS option §3.7.1; window scale RFC 7323 §2. Other options are skipped.
"""

import struct
from typing import Final, NamedTuple

from drivers.net.checksum import internet_checksum, partial_checksum
from drivers.net.ip.ipv4 import TCP, Datagram, pseudo_header

HEADER: Final = struct.Struct(">HHIIBBHHH")
FIN, SYN, RST, PSH, ACK = 0x01, 0x02, 0x04, 0x08, 0x10
MAX_WINDOW: Final = 0xFFFF
OPTION_END, OPTION_NOTHING, OPTION_MSS, OPTION_SCALE = 0, 1, 2, 3
MAX_SCALE: Final = 14
CHECKSUM_AT: Final = 16


class Segment(NamedTuple):
    """`seq`, `ack` and `window` as on the wire; `mss` and `scale` are None if they are not said. `gso_size`: it stands for
    many, each with so many bytes.
    """

    source_port: int
    port: int
    seq: int
    ack: int
    flags: int
    window: int
    data: bytes = b""
    mss: int | None = None
    scale: int | None = None
    gso_size: int = 0

    @property
    def length(self) -> int:
        """What it takes of the sequence space."""
        return len(self.data) + bool(self.flags & SYN) + bool(self.flags & FIN)


def build(segment: Segment, source: bytes, destination: bytes, offload: bool = False) -> bytes:
    """The segment as bytes, with its checksum, or with what the device needs to fill it in."""
    options = b"" if segment.mss is None else struct.pack(">BBH", OPTION_MSS, 4, segment.mss)
    if segment.scale is not None:
        options += bytes((OPTION_NOTHING, OPTION_SCALE, 3, segment.scale))
    offset = (HEADER.size + len(options)) << 2
    header = HEADER.pack(
        segment.source_port,
        segment.port,
        segment.seq & 0xFFFF_FFFF,
        segment.ack & 0xFFFF_FFFF,
        offset,
        segment.flags,
        segment.window,
        0,
        0,
    )
    whole = header + options + segment.data
    pseudo = pseudo_header(source, destination, TCP, len(whole))
    checksum = partial_checksum(pseudo) if offload else internet_checksum(pseudo + whole)
    return whole[:CHECKSUM_AT] + checksum.to_bytes(2, "big") + whole[CHECKSUM_AT + 2 :]


def parse(datagram: Datagram, *, trusted: bool) -> Segment | None:
    """A sound segment; None for any other. `trusted`: the device vouches for its checksum."""
    whole = datagram.payload
    if len(whole) < HEADER.size:
        return None
    source_port, port, seq, ack, offset, flags, window, _, _ = HEADER.unpack_from(whole)
    size = (offset >> 4) * 4
    if not HEADER.size <= size <= len(whole) or not port or not source_port:
        return None
    if not trusted:
        pseudo = pseudo_header(datagram.source, datagram.destination, TCP, len(whole))
        if internet_checksum(pseudo + whole):
            return None
    mss, scale = said_options(whole[HEADER.size : size]) if flags & SYN else (None, None)
    return Segment(source_port, port, seq, ack, flags, window, whole[size:], mss, scale)


def said_options(options: bytes) -> tuple[int | None, int | None]:
    """The largest segment that the other end takes, and by how much its windows are to be shifted, if it says so;
    malformed options end the list.
    """
    mss = scale = None
    at = 0
    while at < len(options) and options[at] != OPTION_END:
        if options[at] == OPTION_NOTHING:
            at += 1
            continue
        size = options[at + 1] if at + 1 < len(options) else 0
        if size < 2 or at + size > len(options):
            break
        if options[at] == OPTION_MSS and size == 4:
            mss = int.from_bytes(options[at + 2 : at + 4], "big")
        elif options[at] == OPTION_SCALE and size == 3:
            scale = min(options[at + 2], MAX_SCALE)
        at += size
    return mss, scale


def unfold(wire: int, near: int) -> int:
    """The sequence number with these 32 bits that is nearest to `near`."""
    return near + ((wire - near + 0x8000_0000) & 0xFFFF_FFFF) - 0x8000_0000
