"""The local APIC of a vCPU, as far as a guest with one vCPU and no devices needs it: registers that can be found, written and
read. Interrupts come as events' upcalls; no timer runs, and what is sent by ICR goes nowhere.

Accesses are of 32 bits, 16-byte aligned, as Xen's are. Source: Xen arch/x86/hvm/vlapic.c; Intel SDM vol. 3A §10.4.
"""

from typing import Final

from domains.cpu.x86.registers import U32

APIC_PAGE: Final = 0xFEE00000
ID, VERSION, SPIV, DFR, ESR = 0x20, 0x30, 0xF0, 0xE0, 0x280
VERSION_OF_XEN: Final = 0x50014
"""Six entries of a local vector table, version 0x14."""
LVTS: Final = (0x320, 0x330, 0x340, 0x350, 0x360, 0x370)
LVT_MASKED: Final = 1 << 16
WRITABLE: Final = frozenset({ID, 0x80, 0xD0, DFR, SPIV, 0x300, 0x310, *LVTS, 0x380, 0x3E0})
"""ID, TPR, LDR, DFR, SPIV, ICR, the local vector table, the timer's count and divider. EOI and ESR take any write."""
ICR: Final = 0x300
ICR_BUSY: Final = 1 << 12
LVT_ERROR: Final = 0x370
VECTOR: Final = 0xFF
FIRST_VECTOR: Final = 16
MODE: Final = 7 << 8
"""How an interrupt is delivered: 0 by its vector, 1 so to one of several CPUs; others have none."""
SEND_ILLEGAL_VECTOR, RECEIVE_ILLEGAL_VECTOR = 1 << 5, 1 << 6


class LocalApic:
    """One vCPU's. An APIC's id is twice its vCPU's, as on Xen."""

    def __init__(self, vcpu: int) -> None:
        self._registers = {ID: 2 * vcpu << 24, VERSION: VERSION_OF_XEN, SPIV: 0xFF, DFR: U32}
        self._registers |= dict.fromkeys(LVTS, LVT_MASKED)

        self._errors = 0
        """Since ESR was last written, which shows them (Intel SDM vol. 3A §10.5.3)."""

    def read(self, offset: int) -> int:
        """The register; zero if there is none."""
        return self._registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Write a register; one that is not writable stays."""
        if offset in WRITABLE:
            self._registers[offset] = value & (~ICR_BUSY & U32 if offset == ICR else U32)
        if offset == ESR:
            self._registers[ESR], self._errors = self._errors, 0
        elif offset == ICR and value & MODE <= 1 << 8 and value & VECTOR < FIRST_VECTOR:
            self._error(SEND_ILLEGAL_VECTOR)

    def _error(self, error: int) -> None:
        """Remember an error; the interrupt that would tell of it may be one itself (Xen vlapic_error, XSA-462)."""
        self._errors |= error
        lvt = self.read(LVT_ERROR)
        if not lvt & LVT_MASKED and lvt & VECTOR < FIRST_VECTOR:
            self._errors |= RECEIVE_ILLEGAL_VECTOR
