"""A dying domain's memory is taken apart in restartable, idempotent steps (K2, K3).

    tables and descriptors of its vCPUs → its P2M → its XEN frames → L4, then L3, then L2 → done

Each of the last steps clears pins, drops what ALLOCATED holds, and de-validates by force what is still a table of
its level: its top tables are in no use, so a count that is left comes from linear loops (P11) or a parked table.
Frames that others still map keep the dead owner until the last of them lets go (K4).
Source: Xen arch/x86/domain.c, domain_relinquish_resources.
"""

from collections.abc import Callable

import numpy as np

from hypervisor.machine.frame_types import (
    ALLOCATED,
    L2,
    L3,
    L4,
    PAE_XEN_L2,
    PARTIAL,
    PINNED,
    VALIDATED,
    XEN,
)
from hypervisor.mm import devalidate
from hypervisor.mm.allocator import Allocator
from hypervisor.mm.base_pointers import BasePointers
from hypervisor.mm.budget import COST_OF_EXTENT_SCAN, COST_OF_FRAME, Budget, Portion, Restart
from hypervisor.mm.domain_memory import DomainMemory, VcpuMemory
from hypervisor.mm.layout import EXTENT_FRAMES
from hypervisor.mm.page_types import PageTypes
from hypervisor.mm.physmap import Physmap


class Relinquish:
    """The steps; `relinquish_step` of a domain says which is next."""

    def __init__(self, types: PageTypes, allocator: Allocator, bases: BasePointers, physmap: Physmap) -> None:
        self.types = types
        self.frames = types.frames
        self.allocator = allocator
        self.bases = bases
        self._steps: list[Callable[[DomainMemory, Budget], None]] = [
            self._vcpus,
            physmap.drop,
            self._xen_frames,
            lambda d, budget: self._memory(d, L4, budget),
            lambda d, budget: self._memory(d, L3, budget),
            lambda d, budget: self._memory(d, PAE_XEN_L2, budget),
            lambda d, budget: self._memory(d, L2, budget),
        ]

    def relinquish(self, d: DomainMemory, budget: Budget) -> bool:
        """Go on until the budget is out; True when done. `d.dying` must be set."""
        try:
            while d.relinquish_step < len(self._steps):
                self._steps[d.relinquish_step](d, budget)
                d.relinquish_step += 1
                budget.check()
        except Restart:
            return d.relinquish_step == len(self._steps)
        return True

    def _vcpus(self, d: DomainMemory, budget: Budget) -> None:
        for v in d.vcpus:
            self.bases.drop_both(v, Portion(v, budget))
            self.bases.descriptors.drop_ldt_pages(v)
            self.bases.descriptors.drop_gdt(v)

    def _xen_frames(self, d: DomainMemory, budget: Budget) -> None:
        """The window, the L4s above 32-bit guests' L3s, and what is charged for shadows; who has shared_info and grant frames
        frees them.
        """
        self.allocator.set_paging_pool(d, 0)
        if d.window is not None:
            for mfn in d.window.frames():
                self.allocator.free_xen_page(mfn)
            d.window = None
        for v in d.vcpus:
            if v.compat_l4 is not None:
                self.allocator.free_xen_page(v.compat_l4)
                v.compat_l4 = None

    def _memory(self, d: DomainMemory, pgt: int, budget: Budget) -> None:
        """Extent by extent, and again until a whole round finds nothing: what one frame lets go of may park another."""
        portion = Portion(d.vcpus[0] if d.vcpus else VcpuMemory(0, d), budget)
        bases, done = list(d.extents.bases), d.relinquished
        while done.quiet_extents < len(bases):
            base = bases[done.extent % len(bases)]
            mfns = self._owned(d, base, pgt)
            if mfns:
                done.quiet_extents = 0
            for mfn in mfns:
                self._give_up(d, mfn, pgt, portion)
                budget.check()
            budget.spend(COST_OF_EXTENT_SCAN)
            done.extent += 1
            done.quiet_extents += 1
            budget.check()
        done.extent = done.quiet_extents = 0

    def _give_up(self, d: DomainMemory, mfn: int, pgt: int, portion: Portion) -> None:
        """One frame's pin, what ALLOCATED holds, and its table, if it is one of type `pgt`. Restart: in part."""
        if self.frames.owner[mfn] != d.domid:
            return
        self.frames.get_page_light(mfn)
        try:
            self._unpin(mfn, portion)
            self.allocator.put_page_alloc_ref(mfn)
            self._force(mfn, pgt, portion)
        finally:
            self.frames.put_page(mfn)
        portion.budget.spend(COST_OF_FRAME)

    def _owned(self, d: DomainMemory, base: int, pgt: int) -> list[int]:
        """Frames of an extent of `d` for which the step of type `pgt` has still something to do."""
        span = slice(base, base + EXTENT_FRAMES)
        mine = self.frames.owner_np[span] == d.domid
        flags = self.frames.flags_np[span]
        table = (self.frames.type_np[span] == pgt) & ((flags & (VALIDATED | PARTIAL)) != 0)
        mine &= (flags & XEN) == 0
        mine &= ((flags & (ALLOCATED | PINNED)) != 0) | table
        found: list[int] = (np.flatnonzero(mine) + base).tolist()
        return found

    def _unpin(self, mfn: int, portion: Portion) -> None:
        flags = self.frames.flags[mfn]
        if flags & PINNED:
            self.frames.flags[mfn] = flags & ~PINNED
            try:
                self.types.put_page_and_type(mfn, portion)
            except Restart:
                self.frames.put_page(mfn)  # the pin's; PARTIAL holds its own
                raise

    def _force(self, mfn: int, pgt: int, portion: Portion) -> None:
        """De-validate a table of type `pgt` whatever its count; its remaining type references drop with their holders."""
        frames = self.frames
        flags = frames.flags[mfn]
        if frames.type[mfn] != pgt or not flags & (VALIDATED | PARTIAL):
            return
        frames.flags[mfn] = flags & ~(VALIDATED | PARTIAL)
        try:
            devalidate.demote(self.types, mfn, portion, resumed=bool(flags & PARTIAL))
        except Restart:
            if not flags & PARTIAL:
                frames.tcount[mfn] += 1
                frames.get_page_light(mfn)
            frames.flags[mfn] |= PARTIAL
            raise
        self.types.tables.drop(mfn)
        if flags & PARTIAL:
            frames.tcount[mfn] -= 1
            frames.put_page(mfn)
