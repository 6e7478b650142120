"""The PV state of one vCPU that no register of the CPU holds, in words named as in Xen's struct pv_vcpu."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from domains.cpu.traps import TrapGate
from domains.cpu.x86.pv.pit import Pit
from domains.cpu.x86.registers import CR4_DE, CR4_TSD
from hypervisor.machine.debug_registers import DR6_DEFAULT, DR7_DEFAULT

CR4_OF_XEN = 0x660
"""PAE, MCE, OSFXSR, OSXMMEXCPT: what a guest sees of the machine's CR4 (Xen's PV_CR4_GUEST_VISIBLE_MASK)."""
CR4_OF_GUEST = CR4_TSD | CR4_DE
"""What a guest may set of Xen's PV_CR4_GUEST_MASK under this CPU model (no FSGSBASE, no XSAVE)."""


class Callback(NamedTuple):
    """An entry point of the guest's kernel; `cs`: its code segment, of a 32-bit guest alone."""

    address: int
    flags: int
    cs: int = 0


NO_CALLBACK = Callback(0, 0)


@dataclass
class PvState:
    """Xen's struct pv_vcpu. `traps[vector]` is None where no handler is set; callbacks by their type."""

    traps: list[TrapGate | None] = field(default_factory=lambda: [None] * 256)
    callbacks: dict[int, Callback] = field(default_factory=dict)
    kernel_ss: int = 3
    kernel_sp: int = 0
    iopl: int = 0
    """The guest's own IOPL, in place in EFLAGS (bits 12 and 13); the real one is always 0."""
    vm_assist: int = 0
    cr0_ts: bool = False
    cr2: int = 0
    cr4: int = CR4_OF_XEN
    dr: list[int] = field(default_factory=lambda: [0, 0, 0, 0])
    dr6: int = DR6_DEFAULT
    dr7: int = DR7_DEFAULT
    dr7_emul: int = 0
    pit: Pit = field(default_factory=Pit)
    gdt_entries: int = 0
    gdt_frames: list[int] = field(default_factory=list)
    ldt_base: int = 0
    ldt_entries: int = 0
    nmi_pending: bool = False
