"""A number for the flow that a frame is of. Frames of one flow have the same, so that they stay in order. Those of several are
spread over the ways between two hosts, for routers choose one by the UDP source port (RFC 7348 §5). State code.
"""

from typing import Final
from zlib import crc32

from drivers.net.checksum import transport

ADDRESSES: Final = 14
PORTS: Final = 4


def flow_of(frame: bytes) -> int:
    """Of TCP and UDP by addresses and ports, of all else by the Ethernet header."""
    found = transport(frame)
    if found is None:
        return crc32(frame[:ADDRESSES])
    start, _, protocol, addresses = found
    return crc32(addresses + frame[start : start + PORTS], protocol)
