"""The kernel's memory: pages of its own, and frames of others mapped into its address space.

    virt_base + pfn * 4096    linear map: the domain's own pages, extended as pages are taken
    0xffffc90000000000 …      MapArea: foreign frames, grants, shared_info

Own pages are handed out from the lowest number up, so that a guest that needs little touches little; what is
not handed out is not even mapped beyond the initial mapping. The P2M list is where the builder put it, in
guest memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from domains.cpu.python_cpu import PythonCpu
from domains.kernel.boot import StartOfDay, machine_to_phys
from domains.kernel.hypercalls import Hypercalls
from domains.kernel.map_area import MapArea
from domains.kernel.page_tables import L1_SPAN, READ_ONLY, READ_WRITE, PageTables
from hypervisor.machine.paging import PAGE_NX, TABLE_ENTRIES
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE, DomId, Mfn, Pfn, VAddr
from hypervisor.public.xen import DOMID_SELF, UVMF_INVLPG

RESERVE: Final = 8
"""Mapped free pages kept back to make page tables of, when the linear map has to grow."""
INVALID_P2M_ENTRY: Final = (1 << 64) - 1


class Page(NamedTuple):
    """One page of this domain: where the kernel sees it, its number in the domain and in the machine."""

    va: VAddr
    pfn: Pfn
    mfn: Mfn


class PageAllocator:
    """Free pages of the pseudo-physical memory, and the kernel's address space."""

    def __init__(self, cpu: PythonCpu, hypercalls: Hypercalls, day: StartOfDay, next_free: Pfn) -> None:
        self._cpu = cpu
        self._hypercalls = hypercalls
        self.base = day.virt_base
        self._p2m = day.info.mfn_list
        self.nr_pages = self.nr_p2m = int(day.info.nr_pages)
        self._next = int(next_free)
        self._freed: dict[int, None] = {}  # their numbers; the one given back last is used first
        self._growing = False
        self.area = MapArea()
        l4 = self.phys_to_machine(Pfn((day.info.pt_base - self.base) >> PAGE_SHIFT))
        self.tables = PageTables(cpu, hypercalls, l4, self.machine_to_virt, self._new_table)
        self._mapped_end = self._find_mapped_end()

    # --- own pages -------------------------------------------------------------------------------

    def alloc_page(self) -> Page:
        """A zeroed page, mapped writable; XenError(ENOMEM) when none is left."""
        if self._freed:
            return self._page(self._freed.popitem()[0])
        if self._next + RESERVE >= self._mapped_end and not self._growing:
            self._grow()
        if self._next >= self._mapped_end:
            raise XenError(Errno.ENOMEM, f"all {self.nr_pages} pages of the domain are in use")
        self._next += 1
        return self._page(self._next - 1)

    def free_page(self, page: Page) -> None:
        """Give a page back; nobody else may still have it mapped or granted. Raises ValueError for one that is free."""
        if page.pfn in self._freed or self._next <= page.pfn < self.nr_pages:
            raise ValueError(f"page {page.pfn:#x} is free already")
        self._cpu.store(page.va, bytes(PAGE_SIZE))
        self._freed[page.pfn] = None

    def add_page(self, pfn: Pfn) -> None:
        """A zeroed page has come: it is mapped and in the P2M list, and free from now on."""
        self._freed[pfn] = None

    @property
    def free_pages(self) -> int:
        """Pages that alloc_page can still return, page tables for them not counted."""
        return self.nr_pages - self._next + len(self._freed)

    def page_at(self, va: VAddr) -> Page:
        """The page of the kernel's linear map that holds `va`; ValueError for an address outside it."""
        pfn = (va - self.base) >> PAGE_SHIFT
        if not 0 <= pfn < self._mapped_end:
            raise ValueError(f"{va:#x} is not in the linear map")
        return self._page(pfn)

    def _page(self, pfn: int) -> Page:
        return Page(VAddr(self.base + (pfn << PAGE_SHIFT)), Pfn(pfn), self.phys_to_machine(Pfn(pfn)))

    # --- numbers of frames -----------------------------------------------------------------------

    def phys_to_machine(self, pfn: Pfn) -> Mfn:
        """The P2M list's entry, from guest memory."""
        return Mfn(int.from_bytes(self._cpu.load(self._p2m + pfn * 8, 8), "little"))

    def set_phys_to_machine(self, pfn: Pfn, mfn: Mfn | None) -> None:
        """Change the P2M list after a frame came or went (None)."""
        entry = INVALID_P2M_ENTRY if mfn is None else mfn
        self._cpu.store(self._p2m + pfn * 8, entry.to_bytes(8, "little"))

    def lengthen_p2m(self, pages: int) -> None:
        """Have a P2M list for so many pages, those beyond the old one's without frames. XenError(ENOMEM)."""
        old = self._cpu.load(self._p2m, self.nr_p2m * 8)
        entries = old + INVALID_P2M_ENTRY.to_bytes(8, "little") * (pages - self.nr_p2m)
        mfns = [self.alloc_page().mfn for _ in range(-(-len(entries) // PAGE_SIZE))]
        self._p2m = self.map_frames(DOMID_SELF, mfns)
        self._cpu.store(self._p2m, entries)
        self.nr_p2m = pages

    def machine_to_virt(self, mfn: Mfn) -> VAddr:
        """Where the linear map shows one of this domain's own frames."""
        return VAddr(self.base + (machine_to_phys(self._cpu, mfn) << PAGE_SHIFT))

    # --- the linear map --------------------------------------------------------------------------

    def _find_mapped_end(self) -> int:
        """The first page, from the first free one on, that the builder did not map (a whole number of L1s in
        practice).
        """
        pfn = self._next
        while pfn < self.nr_pages:
            va = VAddr(self.base + (pfn << PAGE_SHIFT))
            l1 = self.tables.l1(va)
            if l1 is None:
                break
            first = (va % L1_SPAN) >> PAGE_SHIFT
            raw = self._cpu.load(self.tables.linear(l1), PAGE_SIZE)
            absent = np.flatnonzero(np.frombuffer(raw, "<u8")[first:] & np.uint64(1) == 0)
            if len(absent):
                return min(pfn + int(absent[0]), self.nr_pages)
            pfn += TABLE_ENTRIES - first
        return min(pfn, self.nr_pages)

    def _grow(self) -> None:
        """Map the pages up to the next end of an L1, with at most one new table of each level."""
        start = self._mapped_end
        if start >= self.nr_pages:
            return
        va = VAddr(self.base + (start << PAGE_SHIFT))
        slot = (va % L1_SPAN) >> PAGE_SHIFT
        count = min(TABLE_ENTRIES - slot, self.nr_pages - start)
        mfns = np.frombuffer(self._cpu.load(self._p2m + start * 8, count * 8), "<u8")
        self._growing = True
        try:
            if self.tables.l1(va) is not None:
                self.tables.map(va, mfns.tolist(), READ_WRITE)
            else:
                entries = np.zeros(TABLE_ENTRIES, "<u8")
                entries[slot : slot + count] = mfns << np.uint64(PAGE_SHIFT) | np.uint64(READ_WRITE)
                self.tables.ensure_l1(va, entries)
        finally:
            self._growing = False
        self._mapped_end = start + count

    def _new_table(self) -> tuple[VAddr, Mfn]:
        page = self.alloc_page()
        return page.va, page.mfn

    # --- other frames ----------------------------------------------------------------------------

    def map_frames(
        self, domid: DomId, mfns: Sequence[Mfn], writable: bool = True, executable: bool = False
    ) -> VAddr:
        """Map frames of `domid` (privilege over it, or DOMID_SELF) side by side; the address of the first.
        XenError.
        """
        flags = READ_WRITE if writable else READ_ONLY
        va = self.area.alloc(len(mfns))
        try:
            self.tables.map(va, mfns, flags & ~PAGE_NX if executable else flags, domid)
        except BaseException:
            self.area.free(va)
            raise
        return va

    def unmap(self, va: VAddr) -> None:
        """Undo one map_frames by the address it returned."""
        self.tables.unmap(va, self.area.size(va))
        self.area.free(va)

    def map_own(self, mfn: Mfn, writable: bool = True) -> VAddr:
        """Map one more time a frame of this domain, or one that Xen shares with it."""
        return self.map_frames(DOMID_SELF, [mfn], writable)

    def make_read_only(self, page: Page) -> None:
        """Take away the write right of a page in the linear map: what it needs to become a page table."""
        self._hypercalls.hypercall_update_va_mapping(page.va, page.mfn << PAGE_SHIFT | READ_ONLY, UVMF_INVLPG)

    def make_writable(self, page: Page) -> None:
        """Give it back, after the page has stopped being a table."""
        self._hypercalls.hypercall_update_va_mapping(
            page.va, page.mfn << PAGE_SHIFT | READ_WRITE, UVMF_INVLPG
        )
