"""How a domain's memory grows, shrinks and is exchanged (M1–M5, F13, F14).

Each function does one extent, completely or not at all; hypercalls/memory_op.py goes through the guest's lists.
Source: Xen common/memory.c.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import ALLOCATED, IN_TRANSIT, XEN
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.domain_memory import DomainMemory
from hypervisor.mm.p2m import GFN_BITS
from hypervisor.mm.physmap import Physmap
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

    def __init__(self, allocator: Allocator, physmap: Physmap) -> None:
        self.allocator = allocator
        self.physmap = physmap
        self.frames = allocator.frames

    def increase(self, d: DomainMemory, order: int) -> Mfn:
        """2**order zeroed frames in a row; the first one's number. XenError(ENOMEM)."""
        return self.allocator.alloc_pages(d, order)

    def populate(self, d: DomainMemory, pfn: int, order: int) -> Mfn:
        """As increase, and the M2P says `pfn` onwards for them; a translated domain has them there. XenError(ENOMEM, EINVAL)."""
        if d.p2m is not None:
            return self._populate_translated(d, pfn, order)
        first = self.allocator.alloc_pages(d, order)
        self.name(first, pfn, order)
        return first

    def populate_many(self, d: DomainMemory, pfns: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        """populate at order 0 for the first of `pfns`, as many as can be served at once; perhaps for none."""
        if d.p2m is not None and not self._room_for(d, pfns):
            return np.empty(0, np.int64)
        mfns = self.allocator.alloc_many(d, len(pfns))
        if d.p2m is None:
            self.allocator.m2p.set_many(mfns, pfns[: len(mfns)])
        elif len(mfns):
            self.physmap.add_new_pages(d, pfns[: len(mfns)], mfns)
        return mfns

    def _room_for(self, d: DomainMemory, gfns: npt.NDArray[np.uint64]) -> bool:
        """Whether a translated domain can get frames at all of these at once; why not is told when they come one by one."""
        try:
            return self.physmap.make_room(d, gfns)
        except XenError:
            return False

    def _populate_translated(self, d: DomainMemory, gfn: int, order: int) -> Mfn:
        """New frames at `gfn` onwards, all or none: room for their tables is made first."""
        if (gfn + (1 << order) - 1) >> GFN_BITS:
            raise XenError(Errno.EINVAL, f"there is no guest frame {gfn:#x} of order {order}")
        self.physmap.make_room(d, np.arange(gfn, gfn + (1 << order), dtype=np.uint64))
        first = self.allocator.alloc_pages(d, order)
        for i in range(1 << order):
            self.physmap.add_page(d, gfn + i, first + i)
        return first

    def name(self, first: int, pfn: int, order: int) -> None:
        """Write the M2P for 2**order frames."""
        for i in range(1 << order):
            self.allocator.m2p.set(first + i, (pfn + i) & (1 << 64) - 1)

    def remove_page(self, d: DomainMemory, mfn: int) -> None:
        """Give one frame back (M3); it stays while it is mapped. XenError(ENXIO): not its frame or given back.

        `mfn` is a guest frame number of a translated domain's, and shown there no more. XenError(EINVAL): nothing is there.
        A frame that is a page table, pinned or mapped keeps its other references; only ALLOCATED's goes, once (F14).
        """
        frames = self.frames
        if d.p2m is not None:
            self._remove_translated(d, mfn)
            return
        if not 0 <= mfn < frames.top or frames.owner[mfn] != d.domid or self.is_xen(mfn):
            raise XenError(Errno.ENXIO, f"M3: {frames.describe(mfn)} is not d{d.domid}'s to give back")
        if not frames.flags[mfn] & ALLOCATED:
            raise XenError(Errno.ENXIO, f"F14: {frames.describe(mfn)} was given back before")
        self.allocator.m2p.invalidate(mfn)
        self.allocator.put_page_alloc_ref(mfn)

    def _remove_translated(self, d: DomainMemory, gfn: int) -> None:
        """As Xen's guest_remove_page: XenError(EINVAL) for a hole; a frame of Xen's is unhooked, and stays Xen's."""
        assert d.p2m is not None
        mfn = d.p2m.mfn(gfn)
        self.physmap.remove_page(d, gfn)
        if mfn is not None and self.frames.owner[mfn] == d.domid and not self.is_xen(mfn):
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
