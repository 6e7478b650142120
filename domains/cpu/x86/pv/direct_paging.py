"""Direct paging: the CPU walks the guest's own page tables in machine memory; what Xen's entry code needs of them.

It loads CR3, and says what a fault was. The walk itself is `domains.cpu.page_walk`'s; what does not depend on the tables is
`machine_paging`'s.
"""

from typing import Final

from domains.cpu.page_walk import PageWalk, WalkFault
from domains.cpu.x86.emulator.cpu_state import CR, CpuState
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.machine_paging import PAGE_OFFSET, MachinePaging
from domains.cpu.x86.paging import GuestFault, PageFault
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PFEC_FETCH, PFEC_PRESENT, PFEC_WRITE, is_canonical
from hypervisor.public.types import PAGE_SHIFT

PROTECTION_WRITE: Final = PFEC_PRESENT | PFEC_WRITE


class DirectPaging(MachinePaging):
    """A `Paging`: the vCPU's current address space. Addresses are 64-bit linear ones; accesses are with user rights."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        super().__init__(memory, cpu, library)
        self._walk = self._new_walk(memory)
        self.l4 = 0

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
        self.l4 = l4
        self.counters["activated"] += 1
        self._cpu.q[CR + 3] = self.physical(l4 << PAGE_SHIFT)
        if not keep:
            self._library.tlb_flush()

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """A store of the kernel's to a page that it maps read-only may be one to a page table; another fault of which the tables
        know nothing was a stale translation's.
        """
        protection = error_code & (PROTECTION_WRITE | PFEC_FETCH) == PROTECTION_WRITE
        if protection and from_kernel and writable_tables and self.read_only_leaf(va):
            return self._counted(PageFault.emulate)
        if is_canonical(va) and self.permits(va, error_code):
            self.invalidate(va)
            return self._counted(PageFault.handled)
        return self._counted(PageFault.forward)

    def _counted(self, outcome: PageFault) -> PageFault:
        self.counters[outcome.name] += 1
        return outcome

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault."""
        if not is_canonical(va):
            raise GuestFault(va, 0)
        found = self._walk.translate(self.l4, va, write=write, fetch=fetch)
        if isinstance(found, WalkFault):
            raise GuestFault(va, found.error_code)
        return found.mfn << PAGE_SHIFT | va & PAGE_OFFSET

    def permits(self, va: int, error_code: int) -> bool:
        """Whether the tables allow the access that faulted with `error_code`: the fault was a stale translation's."""
        found = self._walk.translate(self.l4, va, write=bool(error_code & 2), fetch=bool(error_code & 16))
        return not isinstance(found, WalkFault)

    def read_only_leaf(self, va: int) -> bool:
        """True if `va` is mapped, and mapped read-only."""
        found = self._walk.translate(self.l4, va, write=True)
        return isinstance(found, WalkFault) and found.error_code & PFEC_PRESENT != 0 and self.readable(va)

    def readable(self, va: int) -> bool:
        """True if `va` is mapped for guest code."""
        return not isinstance(self._walk.translate(self.l4, va), WalkFault)

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` for a crash report: (level, entry) from L4 down to the last one that is present."""
        return self._walk.levels(self.l4, va)
