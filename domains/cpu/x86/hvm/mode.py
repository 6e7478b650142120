"""What an HVM guest executes now: its ring, its code's width, and where a hypercall's registers are.

            64-bit code              32-bit code (the upper halves do not count)
    number  RAX                      EAX                        the result goes there, too
    args    RDI RSI RDX R10 R8       EBX ECX EDX ESI EDI

Source: Xen arch/x86/hvm/hypercall.c (hvm_hypercall).
"""

from typing import Final

from domains.cpu.x86.emulator.cpu_state import HF_CPL, HF_INHIBIT_IRQ, HFLAGS, RIP, CpuState
from domains.cpu.x86.registers import CS, R8, R10, RAX, RBX, RCX, RDI, RDX, RSI, U32, U64

ARGUMENTS_64: Final = (RDI, RSI, RDX, R10, R8)
ARGUMENTS_32: Final = (RBX, RCX, RDX, RSI, RDI)


class HvmMode:
    """One vCPU's."""

    def __init__(self, cpu: CpuState) -> None:
        self._cpu = cpu

    @property
    def in_64bit_code(self) -> bool:
        """Whether the guest executes 64-bit code."""
        return self._cpu.in_64bit_code

    @property
    def cpl(self) -> int:
        """The guest's ring."""
        return self._cpu.d[HFLAGS] & HF_CPL

    @property
    def linear_rip(self) -> int:
        """The linear address of the instruction at rip."""
        q = self._cpu.q
        return q[RIP] if self.in_64bit_code else self._cpu.base(CS) + q[RIP] & U32

    def hypercall(self) -> tuple[int, tuple[int, ...]]:
        """The number and the arguments in the registers."""
        q = self._cpu.q
        if self.in_64bit_code:
            return q[RAX] & U32, tuple(q[register] for register in ARGUMENTS_64)
        return q[RAX] & U32, tuple(q[register] & U32 for register in ARGUMENTS_32)

    def set_result(self, value: int) -> None:
        """A hypercall's result, where the guest looks for it."""
        self._cpu.q[RAX] = value & (U64 if self.in_64bit_code else U32)

    def skip(self, length: int) -> None:
        """The instruction at rip is done; the shadow of an STI ends with it."""
        q = self._cpu.q
        q[RIP] = q[RIP] + length & (U64 if self.in_64bit_code else U32)
        self._cpu.set_hflags(HF_INHIBIT_IRQ, 0)
