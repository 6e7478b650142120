"""What block front and block back agree on: sizes, names of nodes, and how a request lies in the ring.

Source: Xen public/io/blkif.h; one page of ring, 32 requests in flight. A front writes in its own width, and says in which.

A transfer names its pages by grant reference. Up to 11 fit into the request itself; a BLKIF_OP_INDIRECT
request names pages that hold them, 512 to a page, of which MAX_SEGMENTS are taken: 1 MiB in one request.

    request ─► seg[0…10]                             direct
    request ─► indirect_grefs[0] ─► page of segments ─► pages of data

Deliberate difference: sectors are always 512 bytes ("feature-large-sector-size" is not offered).
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple

from drivers.xenbus import DeviceError
from hypervisor.public.compat import compat_struct
from hypervisor.public.io.blkif import (
    BLKIF_MAX_SEGMENTS_PER_REQUEST,
    BLKIF_RSP_EOPNOTSUPP,
    BLKIF_RSP_ERROR,
    blkif_request,
    blkif_request_discard,
    blkif_request_indirect,
    blkif_request_segment,
    blkif_response,
)
from hypervisor.public.io.protocols import XEN_IO_PROTO_ABI_X86_32, XEN_IO_PROTO_ABI_X86_64
from hypervisor.public.layout import Struct
from hypervisor.public.types import PAGE_SIZE

SECTOR_SIZE: Final = 512
SECTORS_PER_PAGE: Final = PAGE_SIZE // SECTOR_SIZE
DIRECT_SEGMENTS: Final = int(BLKIF_MAX_SEGMENTS_PER_REQUEST)
MAX_SEGMENTS: Final = 256
"""Most segments of an indirect request, as "feature-max-indirect-segments" tells the front."""
SEGMENTS_PER_PAGE: Final = PAGE_SIZE // blkif_request_segment.sizeof


class Records(NamedTuple):
    """The structures in the ring, which differ with the front's width; segments do not."""

    request: type[Struct]
    discard: type[Struct]
    indirect: type[Struct]
    response: type[Struct]


RECORDS_64: Final = Records(blkif_request, blkif_request_discard, blkif_request_indirect, blkif_response)
RECORDS: Final[Mapping[str, Records]] = {
    XEN_IO_PROTO_ABI_X86_64: RECORDS_64,
    XEN_IO_PROTO_ABI_X86_32: Records(*map(compat_struct, RECORDS_64)),
}
"""By what a front writes into its node `protocol`."""


class Node(StrEnum):
    """Names of the nodes both ends use; the toolstack's own are the first group."""

    MODE = "mode"
    PARAMS = "params"
    LOCK_LATE = "lock-late"
    ONLINE = "online"
    VIRTUAL_DEVICE = "virtual-device"

    RING_REF = "ring-ref"
    EVENT_CHANNEL = "event-channel"
    PROTOCOL = "protocol"

    PERSISTENT = "feature-persistent"
    INDIRECT = "feature-max-indirect-segments"
    FLUSH = "feature-flush-cache"
    BARRIER = "feature-barrier"
    DISCARD = "feature-discard"
    DISCARD_ENABLE = "discard-enable"

    SECTORS = "sectors"
    SECTOR_BYTES = "sector-size"
    INFO = "info"


class BlockError(DeviceError):
    """A request that failed; `status` is the blkif response status, BLKIF_RSP_ERROR also when the back went
    away.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        names = {int(BLKIF_RSP_ERROR): "BLKIF_RSP_ERROR", int(BLKIF_RSP_EOPNOTSUPP): "BLKIF_RSP_EOPNOTSUPP"}
        return f"{names.get(self.status, self.status)}: {self.reason}"
