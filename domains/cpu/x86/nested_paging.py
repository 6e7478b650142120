"""Nested paging: the CPU walks the guest's own tables, and Xen's P2M below them, which turns guest frames into machine frames.

    linear address ──guest's tables (CR3)──► guest-physical ──P2M──► machine address = the emulated CPU's physical address

The core keeps the P2M and shows the CPU a copy in AMD's nested format, read here as well, where Xen's entry code accesses guest
memory: each table of the guest's is itself found through the P2M. Faults, flushes and loads of CR3 are the guest's own affair
and never come here.
"""

from typing import Final

from domains.cpu.page_walk import ENTRY_WORDS
from domains.cpu.x86.cpu_state import CR, HF_CPL, HF_LMA, HFLAGS, CpuState
from domains.cpu.x86.machine_paging import PAGE_OFFSET, MachinePaging
from domains.cpu.x86.paging import GuestFault, PageFault
from domains.cpu.x86.registers import CR0_PG, CR0_WP, CR4_PAE, U32
from domains.cpu.x86.svm import Svm
from domains.cpu.x86.unicorn_library import UnicornLibrary
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import (
    FORMATS,
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_PSE,
    PAGE_RW,
    PAGE_USER,
    PFEC_FETCH,
    PFEC_PRESENT,
    PFEC_WRITE,
    PTE_MFN_MASK,
    PV64,
    is_canonical,
)
from hypervisor.public.types import PAGE_SHIFT

ADDRESS_BITS: Final = {2: U32 & ~PAGE_OFFSET, 3: PTE_MFN_MASK, 4: PTE_MFN_MASK}
EVERY_RIGHT: Final = PAGE_RW | PAGE_USER


class NotMapped(Exception):
    """The P2M has no frame there for such an access: nothing of the guest's, or a device."""

    def __init__(self, gpa: int) -> None:
        super().__init__(f"guest-physical {gpa:#x} is not mapped")
        self.gpa = gpa


class NestedPaging(MachinePaging):
    """A `Paging`. Accesses to linear addresses are made with the rights that the guest has at that moment."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        super().__init__(memory, cpu, library)
        self._entries = memory.octets.cast("Q")
        self._p2m = 0
        self.svm = Svm(library, cpu, memory.size)

    def enable(self, p2m: int) -> None:
        """The P2M's top table lies in this machine frame."""
        self._p2m = p2m
        self.svm.enable(p2m)

    @property
    def root(self) -> int:
        """The guest frame of the guest's page table in force."""
        return self._cpu.q[CR + 3] >> PAGE_SHIFT

    @property
    def level_count(self) -> int:
        """Levels of the guest's tables: 0 (no paging), 2, 3 or 4."""
        q = self._cpu.q
        if not q[CR] & CR0_PG:
            return 0
        if self._cpu.d[HFLAGS] & HF_LMA:
            return 4
        return 3 if q[CR + 4] & CR4_PAE else 2

    def activate(self, root: int, *, keep: bool = False) -> None:
        """Load the guest's CR3 on Xen's account."""
        self._cpu.q[CR + 3] = root << PAGE_SHIFT
        if not keep:
            self.invalidate_all()

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """It is the guest's own, always: no fault of a guest's comes to Xen."""
        return PageFault.forward

    def machine(self, gpa: int, *, write: bool = False) -> int:
        """The machine address of a guest-physical one. Raises NotMapped."""
        table, rights = self._p2m, EVERY_RIGHT
        for shift, mask in zip(PV64.shifts, PV64.masks, strict=True):
            entry = self._entries[table << 9 | gpa >> shift & mask]
            rights &= entry
            if not entry & PAGE_PRESENT or (write and not rights & PAGE_RW):
                raise NotMapped(gpa)
            table = (entry & PTE_MFN_MASK) >> PAGE_SHIFT
            if entry & PAGE_PSE and shift > PAGE_SHIFT:
                span = (1 << shift) - 1
                return (entry & PTE_MFN_MASK & ~span) | gpa & span
        return table << PAGE_SHIFT | gpa & PAGE_OFFSET

    def guest_physical(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The guest-physical address of `va`, by the guest's tables. Raises GuestFault."""
        count = self.level_count
        if count == 0:
            return va & U32
        if count == 4 and not is_canonical(va):
            raise GuestFault(va, 0)
        kernel = not self._cpu.d[HFLAGS] & HF_CPL
        error = (PFEC_WRITE if write else 0) | (PFEC_FETCH if fetch else 0)
        rights, forbidden, steps = EVERY_RIGHT, 0, self._steps(va, count)
        for level, entry in steps:
            if not entry & PAGE_PRESENT:
                raise GuestFault(va, error)
            if not (count == 3 and level == 3):  # PAE's top entries have no rights
                rights &= entry
            forbidden |= entry & PAGE_NX
        level, entry = steps[-1]
        may_write = rights & PAGE_RW or (kernel and not self._cpu.q[CR] & CR0_WP)
        if (not kernel and not rights & PAGE_USER) or (write and not may_write) or (fetch and forbidden):
            raise GuestFault(va, error | PFEC_PRESENT)
        span = (1 << FORMATS[count].shifts[-level]) - 1
        return (entry & ADDRESS_BITS[count] & ~span) | va & span

    def _steps(self, va: int, count: int) -> list[tuple[int, int]]:
        """The walk of `va`: (level, entry) from the top down to the leaf, or to the first that is not present."""
        paging = FORMATS[count]
        entries = self._octets.cast(ENTRY_WORDS[paging.entry_size])
        table = self._cpu.q[CR + 3] & (U32 & ~31 if count == 3 else ADDRESS_BITS[count])
        steps: list[tuple[int, int]] = []
        for level in range(count, 0, -1):
            try:
                at = self.machine(table + paging.index(va, level) * paging.entry_size)
            except NotMapped:
                return [*steps, (level, 0)]
            entry = entries[at // paging.entry_size]
            steps.append((level, entry))
            if not entry & PAGE_PRESENT or (entry & PAGE_PSE and 1 < level < 4):
                break
            table = entry & ADDRESS_BITS[count]
        return steps

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault; NotMapped if the guest's tables lead nowhere."""
        return self.machine(self.guest_physical(va, write=write, fetch=fetch), write=write)

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` through the guest's tables, for a crash report."""
        count = self.level_count
        return self._steps(va, count) if count else []
