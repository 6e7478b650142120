"""What net front and net back agree on: nodes, limits, and a packet as it travels between them.

Source: Xen public/io/netif.h. Two rings per device, named from the front's side: it sends by the tx ring and
posts empty pages on the rx ring. Data is copied by grant copy, both ways; no page is mapped or exchanged. A
packet may take several slots ("feature-sg"); segmentation offload is not offered.
"""

from enum import StrEnum
from typing import Final, NamedTuple

from hypervisor.public.io.netif import XEN_NETIF_NR_SLOTS_MIN
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


class Packet(NamedTuple):
    """One Ethernet frame. `csum_blank`: its TCP or UDP checksum is still to be filled in."""

    data: bytes
    csum_blank: bool = False
    data_validated: bool = False


def slots_of(size: int) -> int:
    """How many pages a packet of `size` bytes takes."""
    return -(-size // PAGE_SIZE)
