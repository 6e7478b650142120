"""What net front and net back agree on: nodes, limits, and a packet as it travels between them.

Source: Xen public/io/netif.h. Two rings per device, named from the front's side: it sends by the tx ring and
posts empty pages on the rx ring. Data is copied by grant copy, both ways; no page is mapped or exchanged. A
packet may take several slots ("feature-sg"), and a TCP segment stand for many ("feature-gso-tcpv4").
"""

from enum import StrEnum
from typing import Final, NamedTuple

from hypervisor.public.io.netif import (
    XEN_NETIF_EXTRA_TYPE_GSO,
    XEN_NETIF_GSO_TYPE_TCPV4,
    XEN_NETIF_NR_SLOTS_MIN,
    netif_extra_info,
    netif_extra_info_u,
    netif_extra_info_u_gso,
)
from hypervisor.public.types import PAGE_SIZE

MAX_SLOTS: Final = int(XEN_NETIF_NR_SLOTS_MIN)
"""Most slots of one packet."""
MIN_PACKET: Final = 14
"""An Ethernet header."""
MAX_PACKET: Final = 65535


class Node(StrEnum):
    """Names of the nodes both ends use; the toolstack's own are the first group."""

    BRIDGE = "bridge"
    HANDLE = "handle"
    IP = "ip"
    MAC = "mac"
    MTU = "mtu"
    RATE = "rate"

    TX_RING_REF = "tx-ring-ref"
    RX_RING_REF = "rx-ring-ref"
    EVENT_CHANNEL = "event-channel"

    RX_COPY = "feature-rx-copy"
    RX_FLIP = "feature-rx-flip"
    REQUEST_RX_COPY = "request-rx-copy"
    RX_NOTIFY = "feature-rx-notify"
    SG = "feature-sg"
    NO_CSUM_OFFLOAD = "feature-no-csum-offload"
    GSO_TCPV4 = "feature-gso-tcpv4"


class Packet(NamedTuple):
    """One Ethernet frame. `csum_blank`: its TCP or UDP checksum is still to be filled in. `gso_size`: it is a TCP segment
    that stands for many, each with so many bytes of payload (`segmentation.py`); 0 if it is what it is.
    """

    data: bytes
    csum_blank: bool = False
    data_validated: bool = False
    gso_size: int = 0

    @property
    def slots(self) -> int:
        """How many ring entries it takes."""
        return slots_of(len(self.data)) + (self.gso_size > 0)


def slots_of(size: int) -> int:
    """How many pages a packet of `size` bytes takes."""
    return -(-size // PAGE_SIZE)


def gso_extra(size: int) -> bytes:
    """The extra info of a TCP segment that stands for many, each with `size` bytes of payload."""
    gso = netif_extra_info_u_gso(size=size, type=XEN_NETIF_GSO_TYPE_TCPV4)
    return netif_extra_info(type=XEN_NETIF_EXTRA_TYPE_GSO, u=netif_extra_info_u(gso=gso)).pack()
