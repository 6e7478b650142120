"""Frames are given to domains and come back: limits, scrubbing, and what a free frame looks like (F1, M1).

A frame belongs to one domain's memfd for good, so "freed" means free for that domain. A change of owner copies into
a new frame of the new owner.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from hypervisor.machine.frame_types import ALLOCATED, IN_TRANSIT, NO_OWNER, VALIDATED, WRITABLE, XEN
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import DomainMemory, OnExtent
from hypervisor.mm.extents import MachineSpace
from hypervisor.mm.frame_table import FrameTable
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.mm.m2p import M2P
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import DomId, Mfn

RUN_SLACK: Final = 8 * EXTENT_FRAMES
"""Frames beyond its limit that a domain's extents may have so that a run of frames can be found. A domain that kept one frame of
each would have extents without end otherwise, and its process can touch all frames of an extent."""


class Allocator:
    """`quota_frames` bounds the frames all domains hold together; `used_frames` counts them."""

    def __init__(
        self,
        frames: FrameTable,
        contents: Contents,
        m2p: M2P,
        space: MachineSpace,
        domains: dict[DomId, DomainMemory],
        quota_frames: int,
        on_extent: OnExtent,
    ) -> None:
        self.frames = frames
        self.contents = contents
        self.m2p = m2p
        self.space = space
        self.domains = domains
        self.quota_frames = quota_frames
        self.used_frames = 0
        self.on_extent = on_extent
        frames.release = self._release

    @property
    def free_frames(self) -> int:
        """Frames of the quota that nobody has."""
        return self.quota_frames - self.used_frames

    def alloc_page(self, d: DomainMemory) -> Mfn:
        """A zeroed frame of `d`: refs 1, ALLOCATED, counted in tot_pages. XenError(ENOMEM)."""
        return self.alloc_pages(d, 0)

    def alloc_pages(self, d: DomainMemory, order: int) -> Mfn:
        """As alloc_page, 2**order frames in a row, aligned; the first one's number. All or none."""
        self._check_limits(d, 1 << order)
        first = self.take(d, order)
        self.assign(d, first, order)
        return first

    def alloc_many(self, d: DomainMemory, most: int) -> npt.NDArray[np.int64]:
        """As alloc_page for up to `most` frames, at once. Fewer or none: alloc_page can tell why, or can go on."""
        nr = min(most, d.max_pages - d.tot_pages, self.quota_frames - self.used_frames)
        if d.dying or nr <= 0:
            return np.empty(0, np.int64)
        mfns = d.extents.pop_clean(nr)
        frames = self.frames
        frames.owner_np[mfns] = d.domid
        frames.refs_np[mfns] = 1
        frames.flags_np[mfns] = ALLOCATED
        d.tot_pages += len(mfns)
        self.used_frames += len(mfns)
        return mfns

    def take(self, d: DomainMemory, order: int) -> Mfn:
        """2**order free frames in a row, in transit: nobody's, on no list. XenError(ENOMEM): quota or memfd."""
        nr = 1 << order
        if self.used_frames + nr > self.quota_frames:
            raise XenError(Errno.ENOMEM, f"the machine's {self.quota_frames} frames are all in use")
        extents = d.extents
        first = extents.pop() if order == 0 else extents.pop_run(order)
        if first is None:
            if order and extents.nr_frames >= d.max_pages + RUN_SLACK:
                raise XenError(Errno.ENOMEM, f"no {nr} free frames of d{d.domid} lie in a row")
            base, offset = extents.add()
            self.m2p.invalidate_extent(base)
            self.on_extent(d, Mfn(base), EXTENT_FRAMES, offset)
            first = extents.pop() if order == 0 else extents.pop_run(order)
            assert first is not None  # a whole extent has just become free
        for mfn in range(first, first + nr):
            if extents.clean(mfn):
                self.contents.clear(mfn)
            self.frames.owner[mfn] = IN_TRANSIT
        self.used_frames += nr
        return Mfn(first)

    def assign(self, d: DomainMemory, first: int, order: int) -> None:
        """Give frames in transit to `d`, whose memfd they are of (F1, M1)."""
        frames = self.frames
        for mfn in range(first, first + (1 << order)):
            frames.owner[mfn] = d.domid
            frames.refs[mfn] = 1
            frames.flags[mfn] = ALLOCATED
        d.tot_pages += 1 << order

    def untake(self, d: DomainMemory, first: int, order: int = 0) -> None:
        """Frames in transit become free again."""
        for mfn in range(first, first + (1 << order)):
            self._make_free(d, mfn)

    def set_paging_pool(self, d: DomainMemory, nr_frames: int) -> None:
        """Charge `d` with so many frames for shadow page tables, instead of what it was charged with. XenError(ENOMEM)."""
        if nr_frames - d.paging_pool > self.free_frames:
            raise XenError(
                Errno.ENOMEM,
                f"{nr_frames} frames for the shadows of d{d.domid}, and {self.free_frames} are free",
            )
        self.used_frames += nr_frames - d.paging_pool
        d.paging_pool = nr_frames

    def put_page_alloc_ref(self, mfn: int) -> None:
        """Drop what ALLOCATED holds, once (F14); no effect on a frame that was given back before."""
        flags = self.frames.flags[mfn]
        if flags & ALLOCATED:
            self.frames.flags[mfn] = flags & ~ALLOCATED
            self.frames.put_page(mfn)

    def alloc_xen_page(self, d: DomainMemory, *, writable: bool) -> Mfn:
        """A zeroed frame of Xen's that `d` may map read-only, or also writable; not in tot_pages (F12)."""
        mfn = self.take(d, 0)
        frames = self.frames
        frames.owner[mfn] = d.domid
        frames.refs[mfn] = 1
        frames.type[mfn] = WRITABLE if writable else 0
        frames.tcount[mfn] = 1
        frames.flags[mfn] = ALLOCATED | XEN | VALIDATED
        return mfn

    def free_xen_page(self, mfn: int) -> None:
        """Xen is done with the frame; it stays while the guest maps it, and is old from now on to the CPUs (T1)."""
        frames = self.frames
        if frames.flags[mfn] & ALLOCATED:
            frames.tcount[mfn] -= 1
            frames.stamp[mfn] = self.domains[DomId(frames.owner[mfn])].flush_clock
            self.put_page_alloc_ref(mfn)

    def steal_page(self, mfn: int, d: DomainMemory) -> None:
        """Take a frame away from `d`: then it is in transit, type word 0 (F6, F13). XenError(EINVAL).

        It must be ALLOCATED and nobody's reference but that one may be on it. tot_pages goes down.
        """
        frames = self.frames
        if not 0 <= mfn < frames.top or frames.owner[mfn] != d.domid or frames.flags[mfn] & XEN:
            raise XenError(Errno.EINVAL, f"F13: {frames.describe(mfn)} is not d{d.domid}'s to give away")
        if frames.refs[mfn] != 1 or not frames.flags[mfn] & ALLOCATED:
            raise XenError(Errno.EINVAL, f"F13: {frames.describe(mfn)} is in use")
        self._reset(mfn)
        frames.owner[mfn] = IN_TRANSIT
        d.tot_pages -= 1

    def unsteal_page(self, mfn: int, d: DomainMemory) -> None:
        """Undo steal_page."""
        self.assign(d, mfn, 0)

    def assign_copy(self, mfn: int, source: DomainMemory, to: DomainMemory) -> Mfn:
        """The content of a stolen frame in a new frame of `to`; the old one is free then. XenError(ENOMEM)."""
        new = self.alloc_page(to)
        self.contents.copy(new, mfn)
        self.untake(source, mfn)
        return new

    def _check_limits(self, d: DomainMemory, nr: int) -> None:
        if d.dying:
            raise XenError(Errno.ENOMEM, f"K1: d{d.domid} is dying")
        if d.tot_pages + nr > d.max_pages:
            raise XenError(Errno.ENOMEM, f"M1: d{d.domid} may have {d.max_pages} frames")

    def _release(self, mfn: int) -> None:
        """The last reference went (F1)."""
        d = self.domains[DomId(self.frames.owner[mfn])]
        if not self.frames.flags[mfn] & XEN:
            d.tot_pages -= 1
        self._make_free(d, mfn)

    def _make_free(self, d: DomainMemory, mfn: int) -> None:
        self._reset(mfn)
        self.frames.owner[mfn] = NO_OWNER
        self.m2p.invalidate(mfn)
        self.used_frames -= 1
        d.extents.push(mfn)

    def _reset(self, mfn: int) -> None:
        """refs, type word and flags 0 (F6); the stamp stays, for stale translations outlive the frame's use (T1)."""
        frames = self.frames
        frames.refs[mfn] = 0
        frames.type[mfn] = 0
        frames.tcount[mfn] = 0
        frames.flags[mfn] = 0
