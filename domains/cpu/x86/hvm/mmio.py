"""An access to guest-physical memory that is not there: to the local APIC, or to a device that there is not.

The instruction at rip is decoded and done in the CPU's place. Only moves are, which is how every kernel talks to an APIC; what
is read where nothing is are ones, and what is written there is dropped (Xen arch/x86/hvm/emulate.c, null_handler).
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.hvm.lapic import APIC_PAGE
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from hypervisor.public.types import PAGE_SIZE

MOVES: Final = frozenset({"mov", "movabs", "movzx"})


def emulate_access(v: HvmVcpu, gpa: int) -> bool:
    """Do the access to `gpa` of the instruction at rip; False if it is none that is done here."""
    try:
        instruction = v.decoder.decode(v.cpu.q[RIP])
    except (GuestFault, NotMapped):
        return False
    if instruction is None or instruction.name not in MOVES or len(instruction.operands) != 2:
        return False
    _move(v, instruction, gpa)
    v.mode.skip(instruction.length)
    return True


def _move(v: HvmVcpu, instruction: Instruction, gpa: int) -> None:
    target, source = instruction.operands
    apic = gpa & -PAGE_SIZE == APIC_PAGE
    v.exits["local APIC" if apic else "no device"] += 1
    if target.type == capstone.x86.X86_OP_MEM:
        if apic:
            v.apic.write(gpa - APIC_PAGE, v.decoder.source(source))
    else:
        ones = (1 << 8 * source.size) - 1
        v.decoder.write_register(target.reg, v.apic.read(gpa - APIC_PAGE) & ones if apic else ones)
