"""Shadow paging of a guest in ring 1: the shadow tables of hvm/shadow_paging below an L4 of the monitor's own.

    L4 ─┬─ slot 0: the tree of the guest's address space in force, all 4 GiB of it
        └─ slot WINDOW: the descriptor table that the CPU uses, which 32-bit code cannot address

CR0, CR2, CR3, CR4 are the guest's own words; with the CPU's, paging is always on, and read-only pages are so for ring 1, too.
The monitor reads and writes guest memory through the shadows, as the CPU does: accessed and dirty bits come out the same.
"""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import CR, EFER, HF_CPL, HFLAGS, CpuState
from domains.cpu.x86.emulator.unicorn_library import UnicornLibrary
from domains.cpu.x86.hvm.shadow_paging import ShadowPaging
from domains.cpu.x86.hvm.shadow_tables import FRAME_BITS, LEAF, TABLE_SHIFT, UPPER, Tree
from domains.cpu.x86.machine_paging import PAGE_OFFSET
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import (
    CR0_CD,
    CR0_EM,
    CR0_ET,
    CR0_MP,
    CR0_NW,
    CR0_PE,
    CR0_PG,
    CR0_TS,
    CR0_WP,
    CR4_OSFXSR,
    CR4_OSXMMEXCPT,
    CR4_PAE,
    EFER_NX,
    U32,
)
from domains.cpu.x86.ring1.tracing import Tracer
from hypervisor.machine.control_registers import CR4_OF_HVM
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import (
    PAGE_NX,
    PAGE_PRESENT,
    PAGE_RW,
    PAGE_USER,
    PFEC_FETCH,
    PFEC_USER,
    PFEC_WRITE,
)
from hypervisor.public.types import PAGE_SIZE

WINDOW: Final = 256
"""Slot of the L4."""
WINDOW_BASE: Final = 0xFFFF_8000_0000_0000
CR0_OF_CPU: Final = CR0_PG | CR0_WP | 1 << 5 | CR0_ET | CR0_PE
PASSED_ON: Final = CR0_TS | CR0_EM | CR0_MP
PASSED_ON_CR4: Final = CR4_OSFXSR | CR4_OSXMMEXCPT


class Ring1Paging(ShadowPaging):
    """A `Paging`."""

    def __init__(
        self,
        memory: MachineMemory,
        cpu: CpuState,
        library: UnicornLibrary,
        pool_frames: int,
        *,
        traces_tables: bool,
    ) -> None:
        """`traces_tables`: each store to a page table is an exit (ring1/tracing)."""
        super().__init__(memory, cpu, library, pool_frames)
        self.cr2 = 0
        self.supervisor = False
        """Accesses are the CPU's own, to its tables."""
        self._touched = False
        self._space.rights_32 = UPPER
        self.tracer = Tracer(self.pmap, self._space, library)
        self._traces_tables = traces_tables
        self._top = self._space.pool.take()

    def enable(self, p2m: int) -> None:
        """The P2M's top table lies in this machine frame."""
        self._p2m = p2m
        self.pmap.load(p2m)

    def map_window(self, nr_pages: int) -> list[int]:
        """Frames of the pool at WINDOW_BASE, read-only to ring 1 and not there for ring 3."""
        pool = self._space.pool
        upper, table = self._top, WINDOW
        for _ in range(3):
            frame = pool.take()
            pool.words[upper << TABLE_SHIFT | table] = pool.address(frame) | UPPER & ~PAGE_USER
            upper, table = frame, 0
        pages = [pool.take() for _ in range(nr_pages)]
        for slot, page in enumerate(pages):
            pool.words[upper << TABLE_SHIFT | slot] = pool.address(page) | LEAF
        return pages

    @property
    def words(self) -> memoryview:
        """All entries of the pool's frames: frame << 9 | slot."""
        return self._space.pool.words

    def _load_32(self, tree: Tree) -> None:
        pool = self._space.pool
        pool.words[self._top << TABLE_SHIFT] = pool.address(tree.top) | UPPER
        self._cpu.q[CR + 3] = pool.address(self._top)

    # --- traces -------------------------------------------------------------------------------------

    def table_seen(self, at: int, level: int) -> None:
        """A table of the guest's is shadowed. PAE's top one is read at a load of CR3, and need not be traced."""
        if self._traces_tables and level < 3:
            self.tracer.trace(at & -PAGE_SIZE)

    def open(self, va: int, error: int, address: int) -> None:
        """Let a store to the traced frame at `address` be made."""
        with self.tracer.lifted(address):
            super().page_fault(va, error)
        self.tracer.open(address, va)

    def invalidate_all(self) -> None:
        """The P2M, or what an entry's bits mean, has changed."""
        super().invalidate_all()
        self.tracer.protect_again()

    # --- control registers --------------------------------------------------------------------------

    @property
    def level_count(self) -> int:
        """Levels of the guest's tables: 0, 2 or 3."""
        if not self._cr0 & CR0_PG:
            return 0
        return 3 if self._cr4 & CR4_PAE else 2

    def control(self, number: int) -> int:
        """CR0, CR2, CR3 or CR4 as the guest has it."""
        return self.cr2 if number == 2 else super().control(number)

    def load_controls(self, cr0: int, cr2: int, cr3: int, cr4: int) -> None:
        """Put the guest's control registers in force."""
        self._cr0, self.cr2, self._cr3, self._cr4 = cr0, cr2, cr3, cr4
        self._put_in_force()
        self.invalidate_all()

    def may_be_cr4(self, value: int) -> bool:
        """Whether the guest may have such a CR4."""
        return not value & ~CR4_OF_HVM

    def _put_in_force(self) -> None:
        env = self._cpu.env
        self._library.update_cr0(env, self._cr0 & PASSED_ON | CR0_OF_CPU)
        self._library.update_cr4(env, self._cr4 & PASSED_ON_CR4 | CR4_PAE)

    def _write_cr0(self, value: int) -> bool:
        old = self._cr0
        if (value & CR0_PG and not value & CR0_PE) or (value & CR0_NW and not value & CR0_CD):
            return False
        self._cr0 = value | CR0_ET
        self._put_in_force()
        if (value ^ old) & (CR0_PG | CR0_WP):
            self.switch()
        return True

    # --- guest memory -------------------------------------------------------------------------------

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`, whose shadow is filled in if need be. Raises GuestFault, or NotMapped."""
        va &= U32
        user = not self.supervisor and self._cpu.d[HFLAGS] & HF_CPL == HF_CPL
        entry = self._space.entry(va)
        wanted = PAGE_PRESENT | (PAGE_RW if write else 0) | (PAGE_USER if user else 0)
        if entry & wanted != wanted or (fetch and entry & PAGE_NX):
            access = (PFEC_WRITE if write else 0) | (PFEC_USER if user else 0) | (PFEC_FETCH if fetch else 0)
            self._fault(va, access)
            entry = self._space.entry(va)
        return entry & FRAME_BITS | va & PAGE_OFFSET

    def _fault(self, va: int, access: int) -> None:
        """Fill in the shadow for an access of the monitor's own. Raises GuestFault, or NotMapped."""
        try:
            refused = self.page_fault(va, access)
        except NotMapped as hole:
            address = self.tracer.traced(hole.gpa)
            if address is None:
                raise
            self.open(va, access, address)
            self._touched = True
            return
        if refused is not None:
            raise GuestFault(va, refused & ~PFEC_USER)

    def page_fault(self, va: int, error: int) -> int | None:
        """What a page fault of the CPU's is: None, its shadow is filled in now; or the error code of the guest's own.

        A guest without NX is not told that it was a fetch.
        """
        refused = super().page_fault(va, error)
        if refused is not None and not (self._cr4 & CR4_PAE and self._cpu.q[EFER] & EFER_NX):
            refused &= ~PFEC_FETCH
        return refused

    def write(self, va: int, data: bytes) -> None:
        """Copy to the guest, whose code may be there. Raises what `translate` raises."""
        first = min(len(data), PAGE_OFFSET + 1 - (va & PAGE_OFFSET))
        at = self.translate(va, write=True)
        self._octets[at : at + first] = data[:first]
        self._library.invalidate_code(at, first)
        if self._touched:
            self._touched = False
            self.tracer.close()
        if first < len(data):
            self.write(va + first & U32, data[first:])

    def peek(self, va: int, size: int) -> bytes:
        """Guest memory as the tables have it, without a trace in them; zeros where nothing is."""
        out = b""
        while size:
            here = min(size, PAGE_OFFSET + 1 - (va & PAGE_OFFSET))
            out += self._peek(va & U32, here)
            va, size = va + here, size - here
        return out

    def frame_of(self, va: int) -> int | None:
        """The machine frame that the guest's tables give `va`, without a trace in them; None: none."""
        count = self.level_count
        steps = self.walk(va, count) if count else []
        if self.refusal(steps, count, 0) is not None:
            return None
        try:
            return self.machine(self.leads_to(steps[-1], va, count) if steps else va) & -PAGE_SIZE
        except NotMapped:
            return None

    def _peek(self, va: int, size: int) -> bytes:
        frame = self.frame_of(va)
        if frame is None:
            return bytes(size)
        at = frame | va & PAGE_OFFSET
        return bytes(self._octets[at : at + size])
