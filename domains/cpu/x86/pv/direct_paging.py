"""Direct paging: the CPU walks the guest's own page tables in machine memory; what Xen's entry code needs of them.

It loads CR3, and says what a fault was. The walk itself is `domains.cpu.page_walk`'s; what does not depend on the tables is
`machine_paging`'s.
"""

from typing import Final

from domains.cpu.page_walk import PageWalk
from domains.cpu.x86.emulator.cpu_state import CR, CpuState
from domains.cpu.x86.emulator.twin_tlb import TwinTlb
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.machine_paging import PAGE_OFFSET, MachinePaging
from domains.cpu.x86.paging import GuestFault, PageFault
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import (
    PAGE_PRESENT,
    PAGE_RW,
    PFEC_FETCH,
    PFEC_PRESENT,
    PFEC_WRITE,
    is_canonical,
)
from hypervisor.public.types import PAGE_SHIFT

PROTECTION_WRITE: Final = PFEC_PRESENT | PFEC_WRITE
ACCESS: Final = PFEC_WRITE | PFEC_FETCH
NOTHING, OUTDATED = -1, -2
"""In the place of an L4 table's frame: no translations; some of a table that is not in use any more."""


class DirectPaging(MachinePaging):
    """A `Paging`: the vCPU's current address space. Addresses are 64-bit linear ones; accesses are with user rights."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        super().__init__(memory, cpu, library)
        self._walk = self._new_walk(memory)
        self.l4 = 0
        self.twin: TwinTlb | None = None
        """What keeps the translations of the guest's two halves apart; None: there is one set for both."""
        self._aside = NOTHING
        """The L4 table of which translations are put aside."""

    def _new_walk(self, memory: MachineMemory) -> PageWalk:
        """With user rights."""
        return PageWalk(memory)

    @property
    def root(self) -> int:
        """The frame of the L4 table in use."""
        return self.l4

    def activate(self, l4: int, *, keep: bool = False) -> None:
        """Load CR3 with the L4 table in frame `l4`. `keep` when every present translation stays valid."""
        if l4 == self.l4 and keep:
            return
        self._load(l4)
        if not keep:
            self._aside = NOTHING
            self._library.tlb_flush()

    def _load(self, l4: int) -> None:
        self.l4 = l4
        self.counters["activated"] += 1
        self._cpu.q[CR + 3] = l4 << PAGE_SHIFT

    def change_halves(self, l4: int, *, keep: bool) -> None:
        """Load CR3 with the L4 table of the guest's other half. `keep` when every present translation stays valid."""
        if self.twin is None:
            self.activate(l4, keep=keep)
            return
        aside, self._aside = self._aside, self.l4
        self._load(l4)
        if aside not in (l4, NOTHING):
            self._aside = NOTHING
            self._library.tlb_flush()
        self.twin.swap(self._cpu.env)

    def forget_aside(self) -> None:
        """The other half gets another table, or the same one anew."""
        if self._aside != NOTHING:
            self._aside = OUTDATED

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """A store of the kernel's to a page that it maps read-only may be one to a page table; another fault of which the tables
        know nothing was a stale translation's.
        """
        protection = error_code & (PROTECTION_WRITE | PFEC_FETCH) == PROTECTION_WRITE
        if protection and from_kernel and writable_tables and self.read_only_leaf(va):
            self.counters["emulate"] += 1
            return PageFault.emulate
        if is_canonical(va) and self._walk.walk(self.l4, va, error_code & ACCESS)[0] >= 0:
            self.invalidate(va)
            self.counters["handled"] += 1
            return PageFault.handled
        self.counters["forward"] += 1
        return PageFault.forward

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault."""
        if not is_canonical(va):
            raise GuestFault(va, 0)
        mfn, entry = self._walk.walk(self.l4, va, (PFEC_WRITE if write else 0) | (PFEC_FETCH if fetch else 0))
        if mfn < 0:
            raise GuestFault(va, entry)
        return mfn << PAGE_SHIFT | va & PAGE_OFFSET

    def read_only_leaf(self, va: int) -> bool:
        """True if `va` is mapped, and the last entry of its walk is read-only. Through a table that maps itself that is an entry
        of an L2, writable as a rule: Xen emulates no store there (pv_ro_page_fault).
        """
        leaf = self.levels(va)[-1][1]
        return leaf & (PAGE_PRESENT | PAGE_RW) == PAGE_PRESENT and self.readable(va)

    def readable(self, va: int) -> bool:
        """True if `va` is mapped for guest code."""
        return self._walk.walk(self.l4, va, 0)[0] >= 0

    def l1_entry(self, va: int) -> int:
        """The machine address of the L1 entry for `va`, whatever it says; -1: no L1 table is there."""
        return self._walk.last_entry(self.l4, va)

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` for a crash report: (level, entry) from L4 down to the last one that is present."""
        return self._walk.levels(self.l4, va)
