"""The eight bytes before each frame, RFC 7348 §5.

    0      1               4               7      8
    │ flags │ reserved      │ VNI, 24 bits  │ res. │ Ethernet frame …
      0x08: the VNI is valid, all other bits are 0

The RFC has a receiver ignore the other bits. Linux drops a packet that has one set (vxlan_rcv in drivers/net/vxlan), and so is
done here: extensions use them to say that what follows is no Ethernet frame. State code.
"""

import struct
from enum import Enum, auto
from typing import Final

HEADER: Final = struct.Struct(">II")
VNI_VALID: Final = 0x0800_0000
ETHERNET_SIZE: Final = 14


class Bad(Enum):
    """Why a packet is none of a network."""

    SHORT = auto()
    FLAGS = auto()
    OTHER_VNI = auto()


def header_of(vni: int) -> bytes:
    """What stands before each frame of that network, and before no other."""
    return HEADER.pack(VNI_VALID, vni << 8)


def fault(packet: bytes) -> Bad:
    """What is wrong with a packet that has not the header of a network that is known, or is too short."""
    if len(packet) < HEADER.size + ETHERNET_SIZE:
        return Bad.SHORT
    flags, vni = HEADER.unpack_from(packet)
    return Bad.FLAGS if flags != VNI_VALID or vni & 0xFF else Bad.OTHER_VNI
