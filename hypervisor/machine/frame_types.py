"""What each machine frame is used as, in columns that every domain's process may read.

The core alone writes them, as a part of its frame table (mm/frame_table.py). They lie in one memfd, which a process of a PV guest
maps read-only: it looks there whether a change of a page table is certain to be permitted, and need not wait for it
(docs/posted-operations.md). Nothing in the core relies on what a process made of them.

    0        owner  i32 per frame       a domain's id, or one of the negative numbers below
    64 MiB   type   u8 per frame        PGT
    80 MiB   flags  u8 per frame        PGC
"""

from __future__ import annotations

import mmap
from enum import IntEnum, IntFlag
from typing import Final

from hypervisor.machine.memory import MACHINE_FRAMES
from hypervisor.public.types import PAGE_SHIFT


class PGT(IntEnum):
    """What a frame is used as; exclusive (F4)."""

    none = 0
    l1_page_table = 1
    l2_page_table = 2
    l3_page_table = 3
    l4_page_table = 4
    seg_desc_page = 5
    pae_xen_l2_page_table = 6
    """The L2 of a 32-bit guest that has Xen's slots: another type than a plain L2, so that it is never used as one."""
    writable_page = 7


class PGC(IntFlag):
    """Flags of a frame."""

    NONE = 0
    ALLOCATED = 1
    """Given to its owner and not yet given back; holds one reference (F14)."""
    PINNED = 2
    VALIDATED = 4
    PARTIAL = 8
    """Parked in the middle of being validated or de-validated (A7)."""
    XEN = 16
    """Xen's own frame, shared with its owner (F12). A type reference of its own fixes how: `writable`, or `none`,
    which forbids every writable mapping and every use as a table."""


ALLOCATED: Final = int(PGC.ALLOCATED)
PINNED: Final = int(PGC.PINNED)
VALIDATED: Final = int(PGC.VALIDATED)
PARTIAL: Final = int(PGC.PARTIAL)
XEN: Final = int(PGC.XEN)

L1: Final = int(PGT.l1_page_table)
L2: Final = int(PGT.l2_page_table)
L3: Final = int(PGT.l3_page_table)
L4: Final = int(PGT.l4_page_table)
SEG_DESC: Final = int(PGT.seg_desc_page)
PAE_XEN_L2: Final = int(PGT.pae_xen_l2_page_table)
WRITABLE: Final = int(PGT.writable_page)

LEVELS: Final = (0, 1, 2, 3, 4, 0, 2, 0)
"""By type: the level of a page table; 0: it is none."""

NO_OWNER: Final = -1
"""Owner of a free frame."""
IN_TRANSIT: Final = -2
"""Owner of a stolen frame; only inside one step of an exchange or a transfer, never at a return (F13)."""

_TYPES: Final = MACHINE_FRAMES * 4
_FLAGS: Final = _TYPES + MACHINE_FRAMES
_END: Final = _FLAGS + MACHINE_FRAMES
SHARED_PAGES: Final = _END >> PAGE_SHIFT
"""How large the memfd is."""


class FrameTypes:
    """The columns, as memoryviews indexed by frame number."""

    def __init__(self, fd: int | None = None, *, writable: bool = False) -> None:
        """`fd`: the memfd, SHARED_PAGES large; None: memory of this process alone, writable. Linux fills either in on touch."""
        if fd is None:
            memory = mmap.mmap(-1, _END, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        else:
            memory = mmap.mmap(fd, _END, prot=mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0))
        view = memoryview(memory)
        self.owner: memoryview[int] = view[:_TYPES].cast("i")
        self.type: memoryview[int] = view[_TYPES:_FLAGS]
        self.flags: memoryview[int] = view[_FLAGS:_END]
