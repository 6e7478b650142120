"""The frame table: for every machine frame its owner, reference count, type, type count and flags.

Columns are parallel arrays indexed by MFN, sized for the whole machine address space in anonymous memory that Linux
fills in on touch. Each is there twice over the same bytes: a memoryview for one frame, a numpy array for many.

Invariant (F1): refs == 0 <=> no owner, type none, tcount 0, no flags.
"""

import mmap
from enum import IntEnum, IntFlag
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from hypervisor.mm.layout import NR_FRAMES


class PGT(IntEnum):
    """What a frame is used as; exclusive (F4)."""

    none = 0
    l1_page_table = 1
    l2_page_table = 2
    l3_page_table = 3
    l4_page_table = 4
    seg_desc_page = 5
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
    """Xen's own frame, shared with its owner (F12)."""
    XEN_WRITABLE = 32
    """… which may map it writable."""


NO_OWNER: Final = -1
"""Owner of a free frame."""


Code = Literal["i", "I", "B", "H", "h"]


class FrameTable:
    """The columns. Scalar views are `owner`, `refs`, …; numpy views have `_np` behind their name."""

    def __init__(self, nr_frames: int = NR_FRAMES) -> None:
        self.nr_frames = nr_frames
        self.owner, self.owner_np = column(nr_frames, "i", "<i4")
        self.refs, self.refs_np = column(nr_frames, "I", "<u4")
        self.type, self.type_np = column(nr_frames, "B", "u1")
        self.tcount, self.tcount_np = column(nr_frames, "I", "<u4")
        self.flags, self.flags_np = column(nr_frames, "B", "u1")
        self.nr_validated, self.nr_validated_np = column(nr_frames, "H", "<u2")
        self.partial_set, self.partial_set_np = column(nr_frames, "B", "u1")
        self.linear, self.linear_np = column(nr_frames, "h", "<i2")
        self.stamp, self.stamp_np = column(nr_frames, "I", "<u4")


def column(nr: int, code: Code, dtype: str) -> tuple[memoryview[int], npt.NDArray[Any]]:
    """One value per frame, zero at first, as a memoryview for scalars and a numpy array over the same bytes."""
    memory = mmap.mmap(
        -1, nr * np.dtype(dtype).itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_NORESERVE
    )
    return memoryview(memory).cast(code), np.frombuffer(memory, dtype)
