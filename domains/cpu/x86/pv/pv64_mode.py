"""64-bit PV: which half of the guest runs, its frames and its hypercalls.

Kernel and user space run at CPL 3; the page table tells them apart. Switching swaps the active and the inactive GS base, as
SWAPGS does, and loads the other half's CR3 (Xen's toggle_guest_mode). A kernel's table maps all that its user table maps, and
a user page's translation is global, so entering the kernel keeps the translations; leaving it drops them, for the kernel's
pages are user pages to the CPU.

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
from typing import Final, NamedTuple

from domains.cpu.x86.emulator.cpu_state import RIP, CpuState
from domains.cpu.x86.paging import Paging
from domains.cpu.x86.registers import (
    EFER_SCE_LME_LMA_NX,
    GS,
    R8,
    R10,
    R11,
    RAX,
    RCX,
    RDI,
    RDX,
    RSI,
    U32,
    U64,
)
from hypervisor.public.types import PAGE_SHIFT

_FRAME: Final = struct.Struct("<7Q")
_FRAME_WITH_ERROR: Final = struct.Struct("<8Q")


class Interrupted(NamedTuple):
    """Where an exception came from, for its frame; `flags` as the guest is to see them."""

    rip: int
    cs: int
    flags: int
    rsp: int
    ss: int
    masked: bool
    """Upcalls were held back."""
    in_kernel: bool


class Pv64Mode:
    """A `Mode`. L4 tables by frame; user 0: none."""

    stack_alignment: int = 16
    """Bytes to which a frame's end on the guest's stack is rounded down."""
    efer: int = EFER_SCE_LME_LMA_NX
    hidden_msrs: frozenset[int] = frozenset()

    def __init__(self, cpu: CpuState, paging: Paging) -> None:
        self._cpu = cpu
        self._paging = paging
        self.in_kernel = True
        self.inactive_gs = 0
        self.kernel_l4 = 0
        self.user_l4 = 0

    def enter(self) -> None:
        """From user space to the kernel: present translations stay."""
        self._swap_gs()
        self.in_kernel = True
        self._paging.activate(self.kernel_l4, keep=True)

    def leave(self) -> None:
        """From the kernel to user space."""
        self._swap_gs()
        self.in_kernel = False
        self._paging.activate(self.user_l4)

    def _swap_gs(self) -> None:
        cpu = self._cpu
        active = cpu.base(GS)
        cpu.set_base(GS, self.inactive_gs)
        self.inactive_gs = active

    def load_kernel_table(self, l4: int) -> None:
        """A new CR3 for the kernel (LOAD_CR3)."""
        self.kernel_l4 = l4
        if self.in_kernel:
            self._paging.activate(l4)

    def load_user_table(self, l4: int) -> None:
        """The CR3 for the next return to user space (LOAD_USER_CR3)."""
        self.user_l4 = l4
        if not self.in_kernel:
            self._paging.activate(l4)

    def frame(self, at: Interrupted, error_code: int | None) -> bytes:
        """Xen's create_bounce_frame (arch/x86/x86_64/entry.S)."""
        q = self._cpu.q
        code = (at.cs & ~3 if at.in_kernel else at.cs) | at.masked << 32
        if error_code is None:
            return _FRAME.pack(q[RCX], q[R11], at.rip, code, at.flags, at.rsp, at.ss)
        return _FRAME_WITH_ERROR.pack(q[RCX], q[R11], error_code & U32, at.rip, code, at.flags, at.rsp, at.ss)

    def start_handler(self, address: int, flags: int) -> None:
        """Xen gets there by SYSRET, which leaves rip and rflags in RCX and R11."""
        cpu = self._cpu
        cpu.rflags = flags
        q = cpu.q
        q[RIP] = q[RCX] = address
        q[R11] = flags

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
