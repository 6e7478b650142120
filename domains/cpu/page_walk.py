"""The page walk of a vCPU that runs Python: four levels of real page tables in machine frames.

Guest kernel and guest user both run at CPL 3 under 64-bit PV, so every entry on the way must have its user
bit; which of the two runs is told by the page table in CR3, and in the error code by the U bit alone.
Source: Intel SDM vol. 3A §4.5–4.8.
"""

from __future__ import annotations

from typing import NamedTuple

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
)


class Translation(NamedTuple):
    """Where a page lies: its frame, and the leaf entry as it is after the walk (A and D set)."""

    mfn: int
    entry: int

    @property
    def writable(self) -> bool:
        return bool(self.entry & PAGE_RW)


class WalkFault(NamedTuple):
    """Why there is no translation: the page-fault error code, without its U bit."""

    error_code: int


class PageWalk:
    """Walks page tables by machine address; sets A on every entry used and D on the leaf of a write, as the
    CPU does.

    A leaf's RW is the AND over all levels; NX the OR. A leaf at level 2 maps 2 MiB: Xen's own table of frames
    is mapped so, and no guest may have one (P1).
    """

    def __init__(self, memory: MachineMemory) -> None:
        self._entries = memory.octets.cast("Q")

    def translate(
        self, l4: int, va: int, *, write: bool = False, fetch: bool = False
    ) -> Translation | WalkFault:
        """The translation of canonical `va` under the L4 in frame `l4`. No bit is set when the walk faults."""
        entries = self._entries
        wanted = (PFEC_WRITE if write else 0) | (PFEC_FETCH if fetch else 0)
        rights, forbidden = PAGE_RW | PAGE_USER, 0
        table, slots = l4, []
        for shift in (39, 30, 21, 12):
            slot = table << 9 | va >> shift & 511
            entry = entries[slot]
            if not entry & PAGE_PRESENT:
                return WalkFault(wanted)
            if entry & PAGE_PSE and shift > 21:
                return WalkFault(wanted | PFEC_PRESENT | PFEC_RESERVED)
            rights &= entry
            forbidden |= entry & PAGE_NX
            slots.append(slot)
            table = (entry & PTE_MFN_MASK) >> 12
            if entry & PAGE_PSE and shift == 21:
                table += va >> 12 & 511
                break
        if not rights & PAGE_USER or (write and not rights & PAGE_RW) or (fetch and forbidden):
            return WalkFault(wanted | PFEC_PRESENT)
        return Translation(table, self._mark(slots, write) & ~PAGE_RW | rights & PAGE_RW)

    def _mark(self, slots: list[int], write: bool) -> int:
        """Set A everywhere, D on the leaf of a write; stores only what is missing, for Xen's tables are
        read-only here.
        """
        entries = self._entries
        for slot in slots[:-1]:
            if not entries[slot] & PAGE_ACCESSED:
                entries[slot] |= PAGE_ACCESSED
        leaf = slots[-1]
        marked = entries[leaf] | PAGE_ACCESSED | (PAGE_DIRTY if write else 0)
        if marked != entries[leaf]:
            entries[leaf] = marked
        return marked
