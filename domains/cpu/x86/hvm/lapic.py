"""The local APIC of a vCPU, as far as a guest with one vCPU and no devices needs it: registers that can be found, written and
read. Interrupts come as events' upcalls; no timer runs, and what is sent by ICR goes nowhere.

Accesses are of 32 bits, 16-byte aligned, as Xen's are. Source: Xen arch/x86/hvm/vlapic.c; Intel SDM vol. 3A §10.4.
"""

from typing import Final

from domains.cpu.x86.registers import U32
from hypervisor.machine.local_apic import (
    DFR,
    DIVIDER,
    ESR,
    ICR,
    ID,
    LVT_ERROR,
    LVT_MASKED,
    LVTS,
    REGISTER,
    SPIV,
    register,
    reset_registers,
)

APIC_PAGE: Final = 0xFEE00000
WRITABLE: Final = frozenset({ID, 0x80, 0xD0, DFR, SPIV, ICR, 0x310, *LVTS, 0x380, DIVIDER})
"""ID, TPR, LDR, DFR, SPIV, ICR, the local vector table, the timer's count and divider. EOI and ESR take any write."""
ICR_BUSY: Final = 1 << 12
VECTOR: Final = 0xFF
FIRST_VECTOR: Final = 16
MODE: Final = 7 << 8
"""How an interrupt is delivered: 0 by its vector, 1 so to one of several CPUs; others have none."""
SEND_ILLEGAL_VECTOR, RECEIVE_ILLEGAL_VECTOR = 1 << 5, 1 << 6


class LocalApic:
    """One vCPU's."""

    def __init__(self, vcpu: int) -> None:
        self._registers = reset_registers(vcpu)

        self._errors = 0
        """Since ESR was last written, which shows them (Intel SDM vol. 3A §10.5.3). They are not saved, as on Xen 4.17."""

    def read(self, offset: int) -> int:
        """The register; zero if there is none."""
        return register(self._registers, offset)

    def write(self, offset: int, value: int) -> None:
        """Write a register; one that is not writable stays."""
        if offset in WRITABLE:
            self._set(offset, value & (~ICR_BUSY & U32 if offset == ICR else U32))
        if offset == ESR:
            self._set(ESR, self._errors)
            self._errors = 0
        elif offset == ICR and value & MODE <= 1 << 8 and value & VECTOR < FIRST_VECTOR:
            self._error(SEND_ILLEGAL_VECTOR)

    def saved(self) -> bytes:
        """All registers, as hvm_hw_lapic_regs has them."""
        return bytes(self._registers)

    def load(self, registers: bytes) -> None:
        """Take over saved registers."""
        self._registers[:] = registers

    def _set(self, offset: int, value: int) -> None:
        self._registers[offset : offset + REGISTER] = value.to_bytes(REGISTER, "little")

    def _error(self, error: int) -> None:
        """Remember an error; the interrupt that would tell of it may be one itself (Xen vlapic_error, XSA-462)."""
        self._errors |= error
        lvt = self.read(LVT_ERROR)
        if not lvt & LVT_MASKED and lvt & VECTOR < FIRST_VECTOR:
            self._errors |= RECEIVE_ILLEGAL_VECTOR
