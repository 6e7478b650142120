"""Limits of segments in 32-bit code: the #GP or #SS of an access behind one.

Unicorn never checks the limits of data segments. An access behind one that finds no page, or no memory, is seen here, by what the
instruction is to access; one that finds memory goes through, on this CPU. Source: Intel SDM vol. 3A §5.3.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import SEGMENT_REGISTERS, Decoder, segment_of
from domains.cpu.x86.descriptors import DESC_CODE
from domains.cpu.x86.emulator.cpu_state import RIP, SEGMENT_FLAGS, SEGMENT_LIMIT, CpuState
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import CS, EXC_GP, EXC_SS, SS, U32

EXPAND_DOWN: Final = 1 << 10
"""Of the descriptor of a data segment: its limit is the lower one. Such a limit is not looked at."""


def limit_fault(cpu: CpuState, decoder: Decoder, va: int | None = None) -> int | None:
    """EXC_SS or EXC_GP if the instruction at rip accesses what lies behind a segment's limit: at the linear address `va`, or
    anywhere. None: it does not, or the code is no 32-bit code.
    """
    if cpu.in_64bit_code or all(
        cpu.d[SEGMENT_LIMIT + 6 * segment] == U32 for segment in SEGMENT_REGISTERS.values()
    ):
        return None
    try:
        instruction = decoder.decode(cpu.base(CS) + cpu.q[RIP] & U32)
    except (GuestFault, NotMapped):
        return None
    for operand in instruction.operands if instruction is not None else ():
        if operand.type == capstone.x86.X86_OP_MEM:
            segment = segment_of(operand)
            offset = decoder.offset(operand) & U32
            there = va is None or va - (cpu.base(segment) + offset) & U32 < operand.size
            if there and _is_behind(cpu, segment, offset + operand.size - 1):
                return EXC_SS if segment == SS else EXC_GP
    return None


def _is_behind(cpu: CpuState, segment: int, last: int) -> bool:
    flags, limit = (cpu.d[word + 6 * segment] for word in (SEGMENT_FLAGS, SEGMENT_LIMIT))
    return last > limit and not (flags & EXPAND_DOWN and not flags & DESC_CODE)
