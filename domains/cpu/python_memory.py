"""The memory that a Python guest sees: accesses at virtual addresses, which walk real page tables, through TLBs.

load, store, view ──► TLB ──miss──► page walk ──► the page's view, into the TLB
                                       └──fault──► the guest's handler ──returns──► walk again
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Final, NoReturn

import numpy as np
import numpy.typing as npt

from domains.cpu.effects import VcpuState
from domains.cpu.gate import Gate
from domains.cpu.page_walk import PageWalk, Translation
from domains.cpu.traps import Vector
from hypervisor.machine.atomic import find_atomics
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PFEC_USER,
    PTE_MFN_MASK,
    TABLE_ENTRIES,
    is_canonical,
)
from hypervisor.public.types import PAGE_SHIFT, PAGE_SIZE

Words = npt.NDArray[np.uint64]
TLB_ENTRIES: Final = 4096
MAX_REFAULTS: Final = 64
PAGE_OFFSET: Final = PAGE_SIZE - 1


class PythonMemory(VcpuState):
    """Accesses of one vCPU, under the page table of the half of the guest that runs."""

    def __init__(self, gate: Gate, vcpu: int) -> None:
        super().__init__(gate, vcpu)
        self.user = False
        """Guest user mode: its accesses go through the user page table, its system calls to the guest
        kernel.
        """
        self._walk = PageWalk(gate.memory)
        self._in_xen = False
        """Xen's code runs: a signal is left to the way out."""
        self._atomics = find_atomics()

    def bounce(self, vector: int, error_code: int) -> None:
        """Deliver a trap to the guest kernel's handler; returns when the handler does."""
        raise NotImplementedError

    def crash(self, reason: str) -> NoReturn:
        """End the domain: its guest broke the contract."""
        raise NotImplementedError

    def load(self, va: int, size: int) -> bytes:
        """Read `size` bytes at `va`; faults go to the guest's handler."""
        offset = va & PAGE_OFFSET
        if offset + size <= PAGE_SIZE:
            page = self.tlb_read.get(va >> PAGE_SHIFT)
            if page is None:
                page = self._fill(va, False)
            return bytes(page[offset : offset + size])
        return b"".join(self.views(va, size))

    def store(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` (bytes) at `va`. Up to the page where it faults, a longer store has been done."""
        offset, size = va & PAGE_OFFSET, len(data)
        if offset + size <= PAGE_SIZE:
            page = self.tlb_write.get(va >> PAGE_SHIFT)
            if page is None:
                page = self._fill(va, True)
            page[offset : offset + size] = data
            return
        done = 0
        for view in self._pages(va, size, True):
            view[:] = data[done : done + len(view)]
            done += len(view)

    def view(self, va: int, size: int, write: bool = False) -> memoryview:
        """A view of `size` bytes within one page, checked now; ValueError if the range crosses into another
        page.

        Like a register holding an address, it is good only while the guest leaves the page mapped there.
        """
        offset = va & PAGE_OFFSET
        if offset + size > PAGE_SIZE:
            raise ValueError(f"{va:#x}+{size:#x} crosses a page")
        page = (self.tlb_write if write else self.tlb_read).get(va >> PAGE_SHIFT)
        if page is None:
            page = self._fill(va, write)
        view = page[offset : offset + size]
        return view if write else view.toreadonly()

    def views(self, va: int, size: int, write: bool = False) -> list[memoryview]:
        """Views that together cover `size` bytes from `va`, one a page."""
        return list(self._pages(va, size, write))

    def page_views(self, va: int, count: int) -> list[memoryview]:
        """Views, to read, of `count` whole pages from page-aligned `va` on, good for as long as they stay mapped there. Many are
        looked up together.
        """
        octets = self.memory.octets.toreadonly()
        runs = (frames << PAGE_SHIFT for _, frames in self._frames(va, count, False))
        return [octets[at : at + PAGE_SIZE] for run in runs for at in run.tolist()]

    def load_pages(self, va: int, count: int) -> Words:
        """Copies of `count` whole pages from page-aligned `va` on: uint64[count, 512]."""
        pages = np.empty((count, TABLE_ENTRIES), np.uint64)
        for first, frames in self._frames(va, count, False):
            pages[first : first + len(frames)] = self.memory.frames[frames]
        return pages

    def store_pages(self, va: int, pages: Words) -> None:
        """Write whole pages, uint64[n, 512], from page-aligned `va` on. Up to the page where it faults, it has been done."""
        for first, frames in self._frames(va, len(pages), True):
            self.memory.frames[frames] = pages[first : first + len(frames)]

    def _frames(self, va: int, count: int, write: bool) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
        """The frames behind `count` pages, in runs: (number of the first page, frames). A run's first page is walked to, and
        faults like any other; those behind it in the same L1 table are looked up there together, as long as none would fault.
        """
        needed = np.uint64(PAGE_PRESENT | PAGE_USER | (PAGE_RW if write else 0))
        marked = np.uint64(PAGE_ACCESSED | (PAGE_DIRTY if write else 0))
        first = 0
        while first < count:
            at = va + first * PAGE_SIZE
            self._fill(at, write)
            frames = self._frames_in_l1(at, count - first, needed, marked)
            yield first, frames
            first += len(frames)

    def _frames_in_l1(
        self, va: int, count: int, needed: np.uint64, marked: np.uint64
    ) -> npt.NDArray[np.intp]:
        """The frames behind page `va`, which is mapped, and those behind it, as far as its L1 table has them."""
        where = self._walk.last_entry(self._page_table() or 0, va)
        if where < 0:  # it is mapped by an entry above L1
            found = self.translate(va)
            assert found is not None
            return np.array([found.mfn], np.intp)
        slot = where >> 3 & TABLE_ENTRIES - 1
        entries = self.memory.frames[where >> PAGE_SHIFT][slot : slot + count]
        good = entries & needed == needed
        entries = entries if good.all() else entries[: max(1, int(np.argmin(good)))]
        unmarked = entries & marked != marked
        if unmarked.any():
            entries[unmarked] |= marked
        frames: npt.NDArray[np.intp] = (entries & np.uint64(PTE_MFN_MASK)).astype(np.intp) >> PAGE_SHIFT
        return frames

    def _pages(self, va: int, size: int, write: bool) -> Iterator[memoryview]:
        while size > 0:
            part = min(size, PAGE_SIZE - (va & PAGE_OFFSET))
            yield self.view(va, part, write)
            va, size = va + part, size - part

    def compare_exchange_32(self, va: int, expected: int, new: int) -> int:
        """`lock cmpxchg` on the 4-byte word at `va` (aligned): what was there; `new` is stored if that is
        `expected`.
        """
        word = ctypes.c_uint32.from_buffer(self.view(va, 4, write=True))
        return self._atomics.compare_exchange_32(ctypes.addressof(word), expected, new)

    def translate(self, va: int, write: bool = False) -> Translation | None:
        """What the page tables say of `va` now, past the TLB and without a fault; None if the access would
        fault.
        """
        table = self._page_table()
        found = (
            self._walk.translate(table, va, write=write) if table is not None and is_canonical(va) else None
        )
        return found if isinstance(found, Translation) else None

    def _page_table(self) -> int | None:
        return self.user_cr3 if self.user else self.cr3

    def _fill(self, va: int, write: bool) -> memoryview:
        """Walk, faulting until the guest has made the access possible; the page's view, now in the TLB."""
        for _ in range(MAX_REFAULTS):
            page = self._lookup(va, write)
            if page is not None:
                return page
        self.crash(f"page fault at {va:#x} is not repaired by its handler")

    def _lookup(self, va: int, write: bool) -> memoryview | None:
        """One attempt at an access: the page, or None after the guest's handler has returned."""
        if not is_canonical(va):
            self.bounce(Vector.general_protection, 0)
            return None
        table = self._page_table()
        if table is None:
            self.crash("user mode without a user page table")
        found = self._walk.translate(table, va, write=write)
        if isinstance(found, Translation):
            page = self.memory.view(found.mfn << PAGE_SHIFT, PAGE_SIZE)
            tlb = self.tlb_write if write else self.tlb_read
            if len(tlb) >= TLB_ENTRIES:
                tlb.clear()
            tlb[va >> PAGE_SHIFT] = page
            return page
        self.events.set_cr2(va)
        self.bounce(Vector.page_fault, found.error_code | (PFEC_USER if self.user else 0))
        return None
