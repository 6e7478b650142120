"""Direct paging of a 32-bit guest: the same tables, below an L4 of Xen's, with linear addresses of 32 bits.

The kernel runs in ring 1, for which a page needs no user bit; user space needs it. The CPU's ring tells which of the two asks.
"""

from domains.cpu.page_walk import PageWalk
from domains.cpu.x86.emulator.cpu_state import HF_CPL, HFLAGS, CpuState
from domains.cpu.x86.paging import PageFault
from domains.cpu.x86.pv.direct_paging import DirectPaging
from domains.cpu.x86.registers import U32
from hypervisor.machine.memory import MachineMemory
from hypervisor.machine.paging import PAGE_USER


class RingWalk(PageWalk):
    """A walk with the rights of the ring that the CPU is in."""

    def __init__(self, memory: MachineMemory, cpu: CpuState) -> None:
        super().__init__(memory)
        self._cpu = cpu

    def walk(self, root: int, va: int, access: int) -> tuple[int, int]:
        """As PageWalk's; the user bit counts in ring 3."""
        self.required = PAGE_USER if self._cpu.d[HFLAGS] & HF_CPL == HF_CPL else 0
        return super().walk(root, va, access)


class CompatPaging(DirectPaging):
    """A `Paging`. Addresses are cut to 32 bits, as the CPU does it."""

    def _new_walk(self, memory: MachineMemory) -> PageWalk:
        return RingWalk(memory, self._cpu)

    def fault(self, va: int, error_code: int, *, from_kernel: bool, writable_tables: bool) -> PageFault:
        """As DirectPaging's."""
        return super().fault(va & U32, error_code, from_kernel=from_kernel, writable_tables=writable_tables)

    def translate(self, va: int, *, write: bool = False, fetch: bool = False) -> int:
        """The machine address of `va`. Raises GuestFault."""
        return super().translate(va & U32, write=write, fetch=fetch)

    def l1_entry(self, va: int) -> int:
        """As DirectPaging's."""
        return super().l1_entry(va & U32)

    def levels(self, va: int) -> list[tuple[int, int]]:
        """The walk of `va` for a crash report, from Xen's L4 down."""
        return super().levels(va & U32)
