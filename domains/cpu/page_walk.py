"""The page walk of a vCPU: real page tables in machine frames, of any format (machine/paging.py).

Guest kernel and guest user both run at CPL 3 under 64-bit PV, so every entry on the way must have its user
bit; which of the two runs is told by the page table in CR3, and in the error code by the U bit alone. A 32-bit
guest's kernel runs in ring 1, for which the user bit does not matter (`required`).
Source: Intel SDM vol. 3A §4.5–4.8.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import (
    PAGE_ACCESSED,
    PAGE_DIRTY,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PFEC_FETCH,
    PFEC_PRESENT,
    PFEC_RESERVED,
    PFEC_WRITE,
    PTE_MFN_MASK,
    PV64,
    PagingFormat,
)


class Translation(NamedTuple):
    """Where a page lies: its frame, and the leaf entry as it is after the walk (A and D set)."""

    mfn: int
    entry: int

    @property
    def writable(self) -> bool:
        """Whether every level permits writes."""
        return bool(self.entry & PAGE_RW)


class WalkFault(NamedTuple):
    """Why there is no translation: the page-fault error code, without its U bit."""

    error_code: int


ENTRY_WORDS: Final[dict[int, Literal["I", "Q"]]] = {4: "I", 8: "Q"}
"""Bytes of an entry -> how memory is read as entries."""


class PageWalk:
    """Walks page tables of one format by machine address; sets A on every entry used and D on the leaf of a write, as
    the CPU does, and stores only what is missing, for Xen's tables are read-only here.

    A leaf's RW is the AND over all levels; NX the OR. A leaf above L1 maps many pages: Xen's own table of frames is
    mapped so, and no guest may have one (P1).
    """

    def __init__(self, memory: MachineMemory, paging: PagingFormat = PV64) -> None:
        self.paging = paging
        self._entries = memory.octets.cast(ENTRY_WORDS[paging.entry_size])
        self._levels = tuple(zip(paging.shifts, paging.masks, strict=True))
        self._upper, self._last = self._levels[:-1], self._levels[-1]
        self._table_shift = paging.table_shift
        self._superpage_shift = paging.superpage_shift
        self._superpage_mask = (1 << paging.superpage_shift - 12) - 1
        self.required = PAGE_USER
        """Bits that every entry on the way must have: PAGE_USER, or 0 while a kernel below ring 3 asks."""

    def translate(
        self, root: int, va: int, *, write: bool = False, fetch: bool = False
    ) -> Translation | WalkFault:
        """The translation of canonical `va` under the top table in frame `root`. No bit is set when the walk faults."""
        mfn, entry = self.walk(root, va, (PFEC_WRITE if write else 0) | (PFEC_FETCH if fetch else 0))
        return WalkFault(entry) if mfn < 0 else Translation(mfn, entry)

    def walk(self, root: int, va: int, access: int) -> tuple[int, int]:
        """The same for an access of PFEC_WRITE and PFEC_FETCH: (frame, leaf entry), or (-1, error code)."""
        entries, table_shift, superpage = self._entries, self._table_shift, self._superpage_shift
        rights, either = PAGE_RW | PAGE_USER, 0
        unmarked: tuple[int, ...] = ()
        slot, table = 0, root
        for shift, mask in self._levels:
            slot = table << table_shift | va >> shift & mask
            entry = entries[slot]
            if not entry & PAGE_PRESENT:
                return -1, access
            if not entry & PAGE_ACCESSED:
                unmarked = (*unmarked, slot)
            rights &= entry
            either |= entry
            table = (entry & PTE_MFN_MASK) >> 12
            if entry & PAGE_PSE and shift >= superpage:
                if shift > superpage:
                    return -1, access | PFEC_PRESENT | PFEC_RESERVED
                table += va >> 12 & self._superpage_mask
                break
        if self.required & ~rights or (access & PFEC_WRITE and not rights & PAGE_RW):
            return -1, access | PFEC_PRESENT
        if access & PFEC_FETCH and either & PAGE_NX:
            return -1, access | PFEC_PRESENT
        for unseen in unmarked:
            entries[unseen] |= PAGE_ACCESSED
        leaf = entries[slot]
        if access & PFEC_WRITE and not leaf & PAGE_DIRTY:
            entries[slot] = leaf = leaf | PAGE_DIRTY
        return table, leaf & ~PAGE_RW | rights & PAGE_RW

    def last_entry(self, root: int, va: int) -> int:
        """The machine address of the entry for `va` in a table of the last level, whatever it says; -1: there is no table."""
        entries, table_shift, table = self._entries, self._table_shift, root
        for shift, mask in self._upper:
            entry = entries[table << table_shift | va >> shift & mask]
            if not entry & PAGE_PRESENT or entry & PAGE_PSE:
                return -1
            table = (entry & PTE_MFN_MASK) >> 12
        shift, mask = self._last
        return (table << table_shift | va >> shift & mask) * self.paging.entry_size

    def levels(self, root: int, va: int) -> list[tuple[int, int]]:
        """The walk of `va` for a report: (level, entry) from the top down to the last one that is present."""
        steps, table, paging = [], root, self.paging
        for level in range(paging.levels, 0, -1):
            entry = self._entries[table << self._table_shift | paging.index(va, level)]
            steps.append((level, entry))
            if not entry & PAGE_PRESENT or (entry & PAGE_PSE and level > 1):
                break
            table = (entry & PTE_MFN_MASK) >> 12
        return steps
