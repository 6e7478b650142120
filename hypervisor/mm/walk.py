"""Walks through the core's own copies of page tables: what a guest's virtual address leads to (T3, U7).

Never through the guest's frames, and never from memory across a change: a vCPU remembers the L1 table that some of its
addresses lead to (2 MiB of them, with four levels), until any entry above L1 changes or any table goes away anywhere.
L1 entries are looked at each time.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    pte_mfn,
)
from hypervisor.mm.contents import Contents
from hypervisor.mm.domain_memory import VcpuMemory, Walked
from hypervisor.mm.hvm_walk import hvm_walk
from hypervisor.mm.tables import Tables
from hypervisor.public.errno import Errno, XenError
from hypervisor.public.types import MAddr, Mfn

L1_SPAN_SHIFT: Final = 21
"""One L1 table maps this power of two of bytes, in four levels and in three."""


class Walk(NamedTuple):
    """What a virtual address leads to."""

    maddr: MAddr
    mfn: Mfn
    l1: Mfn
    """The L1 table that was used last."""
    entry: int
    """The L1 entry as the core recorded it."""


class Walker:
    """Walks for vCPUs."""

    def __init__(self, contents: Contents, tables: Tables) -> None:
        self.contents = contents
        self.tables = tables

    def to_l1(self, v: VcpuMemory, va: int) -> Walked | None:
        """The L1 table that maps `va`; None if there is none, or `va` is not the guest's (U7)."""
        if v.walks_generation != self.tables.generation:
            v.walks.clear()
            v.walks_generation = self.tables.generation
        walked = v.walks.get(va >> L1_SPAN_SHIFT)
        if walked is None and v.domain.rules.addr_ok(va):
            walked = self._walk_upper(v, va)
            if walked is not None:
                v.walks[va >> L1_SPAN_SHIFT] = walked
        return walked

    def _walk_upper(self, v: VcpuMemory, va: int) -> Walked | None:
        mfn, rights = v.cr3, PAGE_RW | PAGE_USER
        for shift, mask in v.domain.rules.paging.upper:
            if mfn is None or mfn not in self.tables:
                return None
            entry = self.tables[mfn].words[va >> shift & mask]
            if not entry & PAGE_PRESENT:
                return None
            rights &= entry
            mfn = Mfn(pte_mfn(entry))
        if mfn is None or mfn not in self.tables:
            return None
        return Walked(mfn, self.tables[mfn].words, rights)

    def walk(self, v: VcpuMemory, va: int, *, write: bool = False, user: bool = False) -> Walk:
        """Translate as the CPU would with CR0.WP set, and set A and D as it would. XenError(EFAULT).

        An HVM guest has no table that Xen validated: its own are walked, and there is no L1 table to be told of.
        """
        walked = self.to_l1(v, va)
        if walked is not None:
            slot = va >> 12 & 511
            entry = walked.words[slot]
            need = PAGE_PRESENT | (PAGE_RW if write else 0) | (PAGE_USER if user else 0)
            if not need & ~(entry & (walked.rights | PAGE_PRESENT)):
                marks = PAGE_ACCESSED | PAGE_DIRTY if write else PAGE_ACCESSED
                if marks & ~entry:
                    walked.words[slot] = entry | marks
                    self.contents.mark(walked.l1, slot, marks)
                mfn = pte_mfn(entry)
                return Walk(MAddr(mfn << 12 | va & 4095), Mfn(mfn), walked.l1, entry)
        elif (maddr := hvm_walk(self.contents, v, va, write=write)) is not None:
            return Walk(MAddr(maddr), Mfn(maddr >> 12), Mfn(0), 0)
        raise XenError(Errno.EFAULT, f"{'write to' if write else 'read of'} {va:#x} is not mapped")
