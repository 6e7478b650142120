"""What both ways of paging of an HVM guest do alike: its own tables give guest-physical addresses, and Xen's P2M machine ones.

    linear address ──guest's tables (its CR3)──► guest-physical ──P2M──► machine address = the emulated CPU's physical address

Nested (nested_paging): the CPU walks both. Shadow (shadow_paging): the CPU walks tables that Xen makes of both. Here both are
walked in Python, where Xen's entry code accesses guest memory; each table of the guest's is itself found through the P2M.
"""

from typing import Final, NamedTuple

from domains.cpu.page_walk import ENTRY_WORDS
from domains.cpu.x86.emulator.cpu_state import EFER, HF_CPL, HF_LMA, HFLAGS, CpuState
from domains.cpu.x86.emulator.svm import Svm
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.machine_paging import PAGE_OFFSET, MachinePaging
from domains.cpu.x86.paging import GuestFault, NotMapped, PageFault
from domains.cpu.x86.registers import (
    CR0_PG,
    CR0_WP,
    CR4_PAE,
    EFER_LMA,
    EFER_NX,
    U32,
)
from hypervisor.machine.control_registers import CR4_OF_HVM
from hypervisor.machine.cpuid import MACHINE_ADDRESS_BITS
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
    PFEC_RESERVED,
    PFEC_USER,
    PFEC_WRITE,
    PTE_MFN_MASK,
    PV64,
    is_canonical,
)
from hypervisor.public.types import PAGE_SHIFT

ADDRESS_BITS: Final = {2: U32 & ~PAGE_OFFSET, 3: PTE_MFN_MASK, 4: PTE_MFN_MASK}
LARGEST_PAGE: Final = {2: 2, 3: 2, 4: 3}
"""The highest level at which an entry may be a page, by how many levels there are."""
BEYOND_THE_MACHINE: Final = PTE_MFN_MASK & -(1 << MACHINE_ADDRESS_BITS)
"""Of an entry's frame number, what CPUID says that no address has."""
P2M_BITS: Final = 48
"""Of a guest-physical address, as many as four levels tell apart."""
EVERY_RIGHT: Final = PAGE_RW | PAGE_USER


class Step(NamedTuple):
    """One level of a walk: the entry, and its machine address (0: the table lies nowhere, and so the entry is 0)."""

    level: int
    at: int
    entry: int


def reserved_bits(entry: int, level: int, count: int) -> int:
    """The bits that must be clear in this entry of three or four levels: of the frame's number, and of a large page's offset."""
    if level == 4:
        return BEYOND_THE_MACHINE | PAGE_PSE
    if level == 1 or level == count or not entry & PAGE_PSE:
        return BEYOND_THE_MACHINE
    return BEYOND_THE_MACHINE | (1 << PV64.shifts[-level]) - (1 << PAGE_SHIFT + 1)  # bit 12 is an attribute


class HvmPaging(MachinePaging):
    """A `Paging`, but for what the CPU's CR3 is. Accesses to linear addresses are made with the rights of the guest's ring."""

    def __init__(self, memory: MachineMemory, cpu: CpuState, library: UnicornLibrary) -> None:
        super().__init__(memory, cpu, library)
        library.map_memory(memory.base, memory.size)
        self._entries = memory.octets.cast("Q")
        self._words = {size: memory.octets.cast(word) for size, word in ENTRY_WORDS.items()}
        self._p2m = 0
        self.svm = Svm(library, cpu, memory.size)

    def enable(self, p2m: int) -> None:
        """The P2M's top table lies in this machine frame. Before any code of the guest's runs."""
        raise NotImplementedError

    def control(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4 as the guest has it."""
        raise NotImplementedError

    def write_control(self, number: int, value: int) -> bool:
        """A store of the guest's to CR0, CR3 or CR4 that is an exit. False: #GP."""
        raise NotImplementedError

    def may_be_cr4(self, value: int) -> bool:
        """Whether the guest may have such a CR4: bits that are advertised, and PAE in long mode."""
        return not value & ~CR4_OF_HVM and bool(value & CR4_PAE or not self._cpu.q[EFER] & EFER_LMA)

    def load_controls(self, cr0: int, cr2: int, cr3: int, cr4: int) -> None:
        """Put the guest's control registers in force; what QEMU derives of them is the caller's to set."""
        raise NotImplementedError

    def activate(self, root: int, *, keep: bool = False) -> None:
        """Load the guest's CR3 on Xen's account."""
        raise NotImplementedError

    @property
    def root(self) -> int:
        """The guest frame of the guest's page table in force."""
        return self.control(3) >> PAGE_SHIFT

    @property
    def level_count(self) -> int:
        """Levels of the guest's tables: 0 (no paging), 2, 3 or 4."""
        if not self.control(0) & CR0_PG:
            return 0
        if self._cpu.d[HFLAGS] & HF_LMA:
            return 4
        return 3 if self.control(4) & CR4_PAE else 2

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """It is the guest's own, always: faults that are Xen's are exits."""
        return PageFault.forward

    def machine(self, gpa: int, *, write: bool = False) -> int:
        """The machine address of a guest-physical one. Raises NotMapped."""
        table, rights = self._p2m, EVERY_RIGHT
        if gpa >> P2M_BITS:
            raise NotMapped(gpa)
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
        error = (PFEC_WRITE if write else 0) | (PFEC_FETCH if fetch else 0)
        steps = self.walk(va, count)
        refused = self.refusal(steps, count, error | self.user_access)
        if refused is not None:
            raise GuestFault(va, refused & ~PFEC_USER)
        return self.leads_to(steps[-1], va, count)

    @property
    def user_access(self) -> int:
        """PFEC_USER in ring 3, else 0."""
        return PFEC_USER if self._cpu.d[HFLAGS] & HF_CPL == HF_CPL else 0

    def leads_to(self, step: Step, va: int, count: int) -> int:
        """The guest-physical address that a walk's last step gives `va`."""
        span = (1 << FORMATS[count].shifts[-step.level]) - 1
        return (step.entry & ADDRESS_BITS[count] & ~span) | va & span

    def refusal(self, steps: list[Step], count: int, error: int) -> int | None:
        """The error code of the page fault that an access ends in, or None. `error`: its PFEC_WRITE, USER and FETCH."""
        rights, forbidden = EVERY_RIGHT, 0
        no_execute = 0 if self._cpu.q[EFER] & EFER_NX else PAGE_NX
        for level, _, entry in steps:
            if not entry & PAGE_PRESENT:
                return error
            if count > 2 and entry & (reserved_bits(entry, level, count) | no_execute):
                return error | PFEC_PRESENT | PFEC_RESERVED
            if not (count == 3 and level == 3):  # PAE's top entries have no rights
                rights &= entry
            forbidden |= entry & PAGE_NX
        user = error & PFEC_USER
        may_write = rights & PAGE_RW or not (user or self.control(0) & CR0_WP)
        refused = (user and not rights & PAGE_USER) or (error & PFEC_WRITE and not may_write)
        return error | PFEC_PRESENT if refused or (error & PFEC_FETCH and forbidden) else None

    def walk(self, va: int, count: int) -> list[Step]:
        """The walk of `va` from the top down to the leaf, or to the first entry that is not present."""
        paging = FORMATS[count]
        entries = self._words[paging.entry_size]
        table = self.control(3) & (U32 & ~31 if count == 3 else ADDRESS_BITS[count])
        steps: list[Step] = []
        for level in range(count, 0, -1):
            try:
                at = self.machine(table + paging.index(va, level) * paging.entry_size)
            except NotMapped:
                return [*steps, Step(level, 0, 0)]
            entry = entries[at // paging.entry_size]
            steps.append(Step(level, at, entry))
            if not entry & PAGE_PRESENT or (entry & PAGE_PSE and 1 < level <= LARGEST_PAGE[count]):
                break
            table = entry & ADDRESS_BITS[count]
        return steps

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault; NotMapped if the guest's tables lead nowhere."""
        return self.machine(self.guest_physical(va, write=write, fetch=fetch), write=write)

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` through the guest's tables, for a crash report."""
        count = self.level_count
        return [(level, entry) for level, _, entry in self.walk(va, count)] if count else []
