"""Exceptions of which the emulated CPU raises another than a processor does. Which is right depends on the instruction.

    #NM    of MMX and SSE comes before #UD, as long as CR0.EM is set or CR4.OSFXSR is clear          → #UD
    #GP    without an error code, of 64-bit code: a stack address that is not canonical (stack_fault)    → #SS
    #PF    of 32-bit code, while a segment has a limit: an access behind that (segment_limit)            → #GP, #SS

Source: Intel SDM vol. 3A §2.5 (CR0.EM, CR4.OSFXSR), §6.15.
"""

from collections.abc import Callable
from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.emulator.cpu_state import CR
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import CR0_EM, EXC_GP, EXC_NM, EXC_PF, EXC_SS, EXC_UD
from domains.cpu.x86.segment_limit import limit_fault
from domains.cpu.x86.stack_fault import is_stack_fault
from hypervisor.machine.paging import PFEC_FETCH


def instead_of(v: HvmVcpu, vector: int) -> int:
    """The vector of what the guest gets for the instruction at rip; the error code is 0 if that is another."""
    try:
        instruction = v.decoder.decode(v.mode.linear_rip)
    except (GuestFault, NotMapped):
        return vector
    return vector if instruction is None else HANDLERS[vector](v, instruction) or vector


def _for_not_available(v: HvmVcpu, instruction: Instruction) -> int | None:
    """x87's own instructions, and saves of its state, do without what MMX and SSE need."""
    if instruction.name == "wait" or instruction.name.startswith("f"):
        return None
    registers = [operand.reg for operand in instruction.operands if operand.type == capstone.x86.X86_OP_REG]
    sse = any(capstone.x86.X86_REG_XMM0 <= register <= capstone.x86.X86_REG_XMM31 for register in registers)
    return EXC_UD if sse or v.cpu.q[CR] & CR0_EM else None


def _for_protection(v: HvmVcpu, instruction: Instruction) -> int | None:
    return EXC_SS if is_stack_fault(v.cpu, v.decoder, instruction) else None


def _for_page_fault(v: HvmVcpu, _instruction: Instruction) -> int | None:
    return None if v.cpu.error_code & PFEC_FETCH else limit_fault(v.cpu, v.decoder, v.cpu.q[CR + 2])


HANDLERS: Final[dict[int, Callable[[HvmVcpu, Instruction], int | None]]] = {
    EXC_NM: _for_not_available,
    EXC_GP: _for_protection,
    EXC_PF: _for_page_fault,
}
"""By the vector that the CPU has raised: the one that is right, or None if that is."""
