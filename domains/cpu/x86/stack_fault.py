"""#SS of 64-bit code: an access through RSP or RBP to an address that is not canonical, which Unicorn reports as #GP.

Source: Intel SDM vol. 3A §6.15 (interrupt 12).
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Decoder, Instruction
from domains.cpu.x86.emulator.cpu_state import CpuState
from domains.cpu.x86.registers import RSP
from hypervisor.machine.paging import is_canonical

STACK_INSTRUCTIONS: Final = frozenset(
    [
        *("push", "pop", "call", "ret", "pushfq", "popfq", "enter", "leave"),
        *("iretq", "pushf", "popf", "retf", "lcall"),
    ]
)
THROUGH_STACK: Final = (capstone.x86.X86_REG_RSP, capstone.x86.X86_REG_RBP)
OVERRIDDEN: Final = (capstone.x86.X86_REG_FS, capstone.x86.X86_REG_GS)


def is_stack_fault(cpu: CpuState, decoder: Decoder, instruction: Instruction) -> bool:
    """Whether this instruction at rip, which ended in #GP, should have ended in #SS."""
    if not cpu.in_64bit_code:
        return False
    if instruction.name in STACK_INSTRUCTIONS and not is_canonical(cpu.q[RSP]):
        return True
    for operand in instruction.operands:
        if operand.type == capstone.x86.X86_OP_MEM and operand.mem.base in THROUGH_STACK:
            if operand.mem.segment in OVERRIDDEN:
                continue
            return not is_canonical(decoder.effective_address(operand, instruction.length))
    return False
