"""How a domain's memory grows, shrinks and is exchanged (M1–M5, F13, F14).

Each function does one extent, completely or not at all; hypercalls/memory_op.py goes through the guest's lists.
Source: Xen common/memory.c.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.mm.allocator import Allocator
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.frame_table import ALLOCATED, IN_TRANSIT, XEN
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import Mfn

DOMU_MAX_ORDER: Final = 9
"""Largest extent a guest may ask for, as a power of two of frames (XSA-158)."""
CONTROL_MAX_ORDER: Final = 10
"""… and the control domain: an extent of this machine (Xen: 18)."""


def max_order(caller: DomainMemory) -> int:
    """M2: the largest extent order that `caller` may name."""
    return CONTROL_MAX_ORDER if caller.privileged else DOMU_MAX_ORDER


class Reservation:
    """Whole extents of a domain."""

    def __init__(self, allocator: Allocator) -> None:
        self.allocator = allocator
        self.frames = allocator.frames

    def increase(self, d: DomainMemory, order: int) -> Mfn:
        """2**order zeroed frames in a row; the first one's number. XenError(ENOMEM)."""
        return self.allocator.alloc_pages(d, order)

    def populate(self, d: DomainMemory, pfn: int, order: int) -> Mfn:
        """As increase, and the M2P says `pfn` onwards for them."""
        first = self.allocator.alloc_pages(d, order)
        self.name(first, pfn, order)
        return first

    def populate_many(self, d: DomainMemory, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """populate at order 0 for the first of `pfns`, as many as can be served at once; perhaps for none."""
        mfns = self.allocator.alloc_many(d, len(pfns))
        self.allocator.m2p.set_many(mfns, pfns[: len(mfns)])
        return mfns

    def name(self, first: int, pfn: int, order: int) -> None:
        """Write the M2P for 2**order frames."""
        for i in range(1 << order):
            self.allocator.m2p.set(first + i, (pfn + i) & (1 << 64) - 1)

    def remove_page(self, d: DomainMemory, mfn: int) -> None:
        """Give one frame back (M3); it stays while it is mapped. XenError(ENXIO): not its frame or given back.

        A frame that is a page table, pinned or mapped keeps its other references; only ALLOCATED's goes, once (F14).
        """
        frames = self.frames
        if not 0 <= mfn < frames.top or frames.owner[mfn] != d.domid or self.is_xen(mfn):
            raise XenError(Errno.ENXIO, f"M3: {frames.describe(mfn)} is not d{d.domid}'s to give back")
        if not frames.flags[mfn] & ALLOCATED:
            raise XenError(Errno.ENXIO, f"F14: {frames.describe(mfn)} was given back before")
        self.allocator.m2p.invalidate(mfn)
        self.allocator.put_page_alloc_ref(mfn)

    def is_xen(self, mfn: int) -> bool:
        """Whether the frame is one of Xen's, which no guest gives away (F12)."""
        return bool(self.frames.flags[mfn] & XEN)

    def exchange_chunk(self, d: DomainMemory, given: list[int], pfns: list[int], order: int) -> list[Mfn]:
        """Take `given` frames away from `d` and give it len(pfns) extents of 2**order new ones, named `pfns` (M4).

        As many frames come as go. XenError: all frames given are
        back with the domain, nothing else happened.
        """
        allocator = self.allocator
        stolen: list[int] = []
        taken: list[Mfn] = []
        try:
            for mfn in given:
                allocator.steal_page(mfn, d)
                stolen.append(mfn)
            # The new frames exist beside the old ones for a moment; that moment is not charged to the quota.
            allocator.quota_frames += len(stolen)
            try:
                for _ in pfns:
                    taken.append(allocator.take(d, order))
            finally:
                allocator.quota_frames -= len(stolen)
        except BaseException:
            for first in taken:
                allocator.untake(d, first, order)
            for mfn in stolen:
                allocator.unsteal_page(mfn, d)
            raise
        for mfn in stolen:
            allocator.untake(d, mfn)
        for first, pfn in zip(taken, pfns, strict=True):
            allocator.assign(d, first, order)
            self.name(first, pfn, order)
        return taken

    def in_transit(self) -> int:
        """Frames that are nobody's yet on no list; 0 at every return (F13)."""
        return int((self.frames.owner_np[: self.frames.top] == IN_TRANSIT).sum())
