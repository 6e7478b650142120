"""32-bit PV: the guest's kernel in ring 1, its user space in ring 3, on one page table; its hypercalls.

    a hypercall, INT 0x82 in ring 1
    EAX                   number, then result
    EBX ECX EDX ESI EDI   arguments

The CPU runs it in long mode's compatibility mode. Its CR3 names an L4 of Xen's, whose slot 0 the core points at the L3 that
the guest knows as its own.
"""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import HF_CPL, HFLAGS, CpuState
from domains.cpu.x86.paging import Paging
from domains.cpu.x86.registers import (
    EFER_LMA,
    EFER_LME,
    EFER_SCE_LME_LMA_NX,
    MSR_FS_BASE,
    MSR_GS_BASE,
    MSR_SHADOW_GS_BASE,
    RAX,
    RBX,
    RCX,
    RDI,
    RDX,
    RSI,
    U32,
)
from hypervisor.machine.paging import pte_mfn
from hypervisor.public.arch_x86.xen_x86_32 import xen_cr3_to_pfn, xen_pfn_to_cr3

KERNEL_RING: Final = 1


class Pv32Mode:
    """A `Mode`."""

    efer: int = EFER_SCE_LME_LMA_NX & ~(EFER_LME | EFER_LMA)
    hidden_msrs: frozenset[int] = frozenset((MSR_FS_BASE, MSR_GS_BASE, MSR_SHADOW_GS_BASE))
    inactive_gs: int = 0

    def __init__(self, cpu: CpuState, paging: Paging) -> None:
        self._cpu = cpu
        self._paging = paging
        self._entries = paging.memory.octets.cast("Q")

    @property
    def in_kernel(self) -> bool:
        """The ring tells."""
        return self._cpu.d[HFLAGS] & HF_CPL == KERNEL_RING

    def load_kernel_table(self, l4: int) -> None:
        """Xen's L4, in which another L3 is shown now."""
        self._paging.activate(l4)

    def load_user_table(self, l4: int) -> None:
        """There is none."""

    def cr3(self) -> int:
        """The guest's L3, in the form that has room for frames above 4 GiB."""
        return xen_pfn_to_cr3(pte_mfn(self._entries[self._paging.root << 9]))

    def table_in(self, cr3: int) -> int:
        """The L3's frame."""
        return xen_cr3_to_pfn(cr3)

    def hypercall(self) -> tuple[int, tuple[int, ...]]:
        """EAX; EBX, ECX, EDX, ESI, EDI."""
        q = self._cpu.q
        return q[RAX] & U32, (q[RBX] & U32, q[RCX] & U32, q[RDX] & U32, q[RSI] & U32, q[RDI] & U32)

    def set_result(self, value: int) -> None:
        """In EAX."""
        self._cpu.q[RAX] = value & U32
