"""Network packets between frontend and backend: requests and responses of the tx and the rx ring.

"tx" and "rx" are the frontend's. Each ring has 256 slots per page. Source: Xen public/io/netif.h.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.layout import Struct, Union, i16, u8, u16
from hypervisor.public.types import grant_ref_t


class NetTxFlags(IntFlag):
    """`flags` of netif_tx_request."""

    NETTXF_csum_blank = 1 << 0
    NETTXF_data_validated = 1 << 1
    NETTXF_more_data = 1 << 2
    NETTXF_extra_info = 1 << 3


(
    NETTXF_csum_blank, NETTXF_data_validated, NETTXF_more_data, NETTXF_extra_info,
) = NetTxFlags.__members__.values()  # fmt: skip


class NetRxFlags(IntFlag):
    """`flags` of netif_rx_response."""

    NETRXF_data_validated = 1 << 0
    NETRXF_csum_blank = 1 << 1
    NETRXF_more_data = 1 << 2
    NETRXF_extra_info = 1 << 3
    NETRXF_gso_prefix = 1 << 4


(
    NETRXF_data_validated, NETRXF_csum_blank, NETRXF_more_data, NETRXF_extra_info,
    NETRXF_gso_prefix,
) = NetRxFlags.__members__.values()  # fmt: skip


class NetStatus(IntEnum):
    """`status` of a response; of netif_rx_response, the number of bytes if positive."""

    NETIF_RSP_DROPPED = -2
    NETIF_RSP_ERROR = -1
    NETIF_RSP_OKAY = 0
    NETIF_RSP_NULL = 1


NETIF_RSP_DROPPED, NETIF_RSP_ERROR, NETIF_RSP_OKAY, NETIF_RSP_NULL = NetStatus.__members__.values()


class NetExtraType(IntEnum):
    """`type` of netif_extra_info."""

    XEN_NETIF_EXTRA_TYPE_NONE = 0
    XEN_NETIF_EXTRA_TYPE_GSO = 1
    XEN_NETIF_EXTRA_TYPE_MCAST_ADD = 2
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL = 3
    XEN_NETIF_EXTRA_TYPE_HASH = 4
    XEN_NETIF_EXTRA_TYPE_MAX = 5


(
    XEN_NETIF_EXTRA_TYPE_NONE, XEN_NETIF_EXTRA_TYPE_GSO, XEN_NETIF_EXTRA_TYPE_MCAST_ADD,
    XEN_NETIF_EXTRA_TYPE_MCAST_DEL, XEN_NETIF_EXTRA_TYPE_HASH, XEN_NETIF_EXTRA_TYPE_MAX,
) = NetExtraType.__members__.values()  # fmt: skip


class NetGsoType(IntEnum):
    """`u.gso.type` of netif_extra_info."""

    XEN_NETIF_GSO_TYPE_NONE = 0
    XEN_NETIF_GSO_TYPE_TCPV4 = 1
    XEN_NETIF_GSO_TYPE_TCPV6 = 2


(
    XEN_NETIF_GSO_TYPE_NONE, XEN_NETIF_GSO_TYPE_TCPV4, XEN_NETIF_GSO_TYPE_TCPV6,
) = NetGsoType.__members__.values()  # fmt: skip

XEN_NETIF_EXTRA_FLAG_MORE: Final = 1  # in `flags` of netif_extra_info: another one follows
XEN_NETIF_NR_SLOTS_MIN: Final = 18  # slots a packet may take that any backend accepts
XEN_NETIF_MAX_TX_SIZE: Final = 0xFFFF  # bytes a packet may have


class netif_tx_request(Struct, size=12):
    """A packet or a part of it, to send."""

    gref: grant_ref_t  # page with the data
    offset: u16  # bytes in that page
    flags: u16  # NETTXF_*
    id: u16
    size: u16  # bytes of this part; of the first part: of the whole packet


class netif_extra_info_u_gso(Struct, size=6):
    """`gso` of netif_extra_info_u."""

    size: u16  # bytes of payload per segment
    type: u8  # XEN_NETIF_GSO_TYPE_*
    pad: u8
    features: u16  # 0


class netif_extra_info_u_mcast(Struct, size=6):
    """`mcast` of netif_extra_info_u."""

    addr: Annotated[bytes, 6]


class netif_extra_info_u_hash(Struct, size=6):
    """`hash` of netif_extra_info_u."""

    type: u8  # XEN_NETIF_CTRL_HASH_TYPE_*
    algorithm: u8
    value: Annotated[bytes, 4]


class netif_extra_info_u(Union, size=6):
    """`u` of netif_extra_info."""

    gso: netif_extra_info_u_gso
    mcast: netif_extra_info_u_mcast
    hash: netif_extra_info_u_hash
    pad: Annotated[tuple[u16, ...], 3]


class netif_extra_info(Struct, size=8):
    """More about a packet, in the slot after the first if its flags say so."""

    type: u8  # XEN_NETIF_EXTRA_TYPE_*
    flags: u8  # XEN_NETIF_EXTRA_FLAG_*
    u: netif_extra_info_u


class netif_tx_response(Struct, size=4):
    """The packet with this id is done."""

    id: u16
    status: i16  # NETIF_RSP_*


class netif_rx_request(Struct, size=8):
    """A page that may be filled."""

    id: u16  # copied to the response
    pad: u16
    gref: grant_ref_t  # the page, writable


class netif_rx_response(Struct, size=8):
    """A packet or a part of it, that arrived."""

    id: u16
    offset: u16  # bytes in the page
    flags: u16  # NETRXF_*
    status: i16  # bytes, or NETIF_RSP_* if negative
