"""Block device requests and responses, 64-bit layout ("x86_64-abi").

The ring has 32 slots per page (a request takes 112 bytes). A sector is 512 bytes, whatever the disk's own is.
Source: Xen public/io/blkif.h.
"""

from enum import IntEnum, IntFlag
from typing import Annotated, Final

from hypervisor.public.layout import Struct, i16, u8, u16, u64
from hypervisor.public.types import grant_ref_t


class BlockOperation(IntEnum):
    """`operation` of a request."""

    BLKIF_OP_READ = 0
    BLKIF_OP_WRITE = 1
    BLKIF_OP_WRITE_BARRIER = 2
    BLKIF_OP_FLUSH_DISKCACHE = 3
    BLKIF_OP_RESERVED_1 = 4
    BLKIF_OP_DISCARD = 5
    BLKIF_OP_INDIRECT = 6


(
    BLKIF_OP_READ, BLKIF_OP_WRITE, BLKIF_OP_WRITE_BARRIER, BLKIF_OP_FLUSH_DISKCACHE,
    BLKIF_OP_RESERVED_1, BLKIF_OP_DISCARD, BLKIF_OP_INDIRECT,
) = BlockOperation.__members__.values()  # fmt: skip


class BlockStatus(IntEnum):
    """`status` of a response."""

    BLKIF_RSP_EOPNOTSUPP = -2
    BLKIF_RSP_ERROR = -1
    BLKIF_RSP_OKAY = 0


BLKIF_RSP_EOPNOTSUPP, BLKIF_RSP_ERROR, BLKIF_RSP_OKAY = BlockStatus.__members__.values()


class DiskInfo(IntFlag):
    """Key `info` of the backend in xenstore."""

    VDISK_CDROM = 1 << 0
    VDISK_REMOVABLE = 1 << 1
    VDISK_READONLY = 1 << 2


VDISK_CDROM, VDISK_REMOVABLE, VDISK_READONLY = DiskInfo.__members__.values()

BLKIF_MAX_SEGMENTS_PER_REQUEST: Final = 11
BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST: Final = 8
BLKIF_DISCARD_SECURE: Final = 1  # in `flag` of a discard


class blkif_request_segment(Struct, size=8):
    """Sectors first to last of one granted page; the page starts at sector 0."""

    gref: grant_ref_t
    first_sect: u8  # 0-7
    last_sect: u8  # 0-7, inclusive


class blkif_request(Struct, size=112):
    """Read, write, barrier, flush."""

    operation: u8  # BLKIF_OP_*
    nr_segments: u8  # used of `seg`
    handle: u16  # the device, as xenstore's virtual-device
    id: u64  # the frontend's own, copied to the response
    sector_number: u64  # first sector on the disk
    seg: Annotated[tuple[blkif_request_segment, ...], 11]


class blkif_request_discard(Struct, size=32):
    """Discard, in the same slot."""

    operation: u8  # BLKIF_OP_DISCARD
    flag: u8  # BLKIF_DISCARD_SECURE
    handle: u16
    id: u64
    sector_number: u64
    nr_sectors: u64


class blkif_request_indirect(Struct, size=64):
    """Read or write with segments in granted pages, in the same slot."""

    operation: u8  # BLKIF_OP_INDIRECT
    indirect_op: u8  # BLKIF_OP_READ or BLKIF_OP_WRITE
    nr_segments: u16  # in all
    id: u64
    sector_number: u64
    handle: u16
    indirect_grefs: Annotated[tuple[grant_ref_t, ...], 8]  # pages of blkif_request_segment, 512 in each


class blkif_response(Struct, size=16):
    """The answer."""

    id: u64  # of the request
    operation: u8  # of the request
    status: i16  # BLKIF_RSP_*
