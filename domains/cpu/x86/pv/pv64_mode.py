"""64-bit PV: which half of the guest runs, its frames and its hypercalls.

Kernel and user space run at CPL 3; the page table tells them apart. Switching swaps the active and the inactive GS base, as
SWAPGS does, and loads the other half's CR3 (Xen's toggle_guest_mode). Each half has its own translations (emulator/twin_tlb) and
its own translated code (HF_KERNEL). Where there is one set for both: a kernel's table maps all that its user table maps, and a
user page's translation is global, so entering the kernel keeps the translations; leaving it drops them, for the kernel's pages
are user pages to the CPU.

    an exception's frame                      a hypercall
    higher   SS                               RAX                      number, then result
             RSP                              RDI RSI RDX R10 R8       arguments
             RFLAGS      IF: the inverse      RCX R11                  lost: SYSRET leaves rip and rflags there
                         of the upcall mask
             CS          bits 32 to 39: the upcall mask; RPL 0 if the kernel was interrupted
             RIP
             error code  if the vector has one
             R11
    lower    RCX         16n + 0
"""

import struct
from typing import Final

from domains.cpu.x86.emulator.cpu_state import HF_KERNEL, HFLAGS, SEGMENT_BASE, CpuState
from domains.cpu.x86.pv.direct_paging import DirectPaging
from domains.cpu.x86.registers import (
    EFER_SCE_LME_LMA_NX,
    GS,
    R8,
    R10,
    RAX,
    RDI,
    RDX,
    RSI,
    U64,
)
from hypervisor.public.types import PAGE_SHIFT

GS_BASE: Final = SEGMENT_BASE + 3 * GS
FRAME: Final = struct.Struct("<7Q")
FRAME_WITH_ERROR: Final = struct.Struct("<8Q")


class Pv64Mode:
    """A `Mode`. L4 tables by frame; user 0: none."""

    stack_alignment: int = 16
    """Bytes to which a frame's end on the guest's stack is rounded down."""
    efer: int = EFER_SCE_LME_LMA_NX
    hidden_msrs: frozenset[int] = frozenset()

    def __init__(self, cpu: CpuState, paging: DirectPaging) -> None:
        self._cpu = cpu
        self._paging = paging
        self.in_kernel = True
        self.be_in(kernel=True)
        self.inactive_gs = 0
        self.kernel_l4 = 0
        self.user_l4 = 0

    def be_in(self, *, kernel: bool) -> None:
        """Which half runs."""
        self.in_kernel = kernel
        d = self._cpu.d
        d[HFLAGS] = d[HFLAGS] | HF_KERNEL if kernel else d[HFLAGS] & ~HF_KERNEL

    def enter(self) -> None:
        """From user space to the kernel."""
        self._swap_gs()
        self.be_in(kernel=True)
        self._paging.change_halves(self.kernel_l4, keep=True)

    def leave(self) -> None:
        """From the kernel to user space."""
        self._swap_gs()
        self.be_in(kernel=False)
        self._paging.change_halves(self.user_l4, keep=False)

    def _swap_gs(self) -> None:
        q = self._cpu.q
        q[GS_BASE], self.inactive_gs = self.inactive_gs, q[GS_BASE]

    def load_kernel_table(self, l4: int) -> None:
        """A new CR3 for the kernel (LOAD_CR3)."""
        self.kernel_l4 = l4
        if self.in_kernel:
            self._paging.activate(l4)
        else:
            self._paging.forget_aside()

    def load_user_table(self, l4: int) -> None:
        """The CR3 for the next return to user space (LOAD_USER_CR3)."""
        self.user_l4 = l4
        if self.in_kernel:
            self._paging.forget_aside()
        else:
            self._paging.activate(l4)

    def cr3(self) -> int:
        """The kernel's own table."""
        return self.kernel_l4 << PAGE_SHIFT

    def table_in(self, cr3: int) -> int:
        """The L4's frame."""
        return cr3 >> PAGE_SHIFT

    def hypercall(self) -> tuple[int, tuple[int, ...]]:
        """RAX; RDI, RSI, RDX, R10, R8."""
        q = self._cpu.q
        return q[RAX], (q[RDI], q[RSI], q[RDX], q[R10], q[R8])

    def set_result(self, value: int) -> None:
        """In RAX."""
        self._cpu.q[RAX] = value & U64
