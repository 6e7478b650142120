"""#PF of a 32-bit guest: behind a segment's limit it is the #GP or #SS that a CPU gives instead.

Unicorn never checks the limits of data segments. An access behind one that finds no page is seen here, by what the instruction is
to access; one that finds a page goes through, on this CPU. Source: Intel SDM vol. 3A §5.3.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import SEGMENT_REGISTERS, segment_of
from domains.cpu.x86.descriptors import DESC_CODE
from domains.cpu.x86.emulator.cpu_state import RIP, SEGMENT_FLAGS, SEGMENT_LIMIT
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import inject_hw_exception
from domains.cpu.x86.pv.page_fault import handle_page_fault
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import CS, EXC_GP, EXC_SS, SS, U32
from hypervisor.machine.paging import PFEC_FETCH

EXPAND_DOWN: Final = 1 << 10
"""Of a data segment's descriptor: its limit is the lower one. Such a limit is not looked at."""


def handle_compat_page_fault(v: X86Vcpu, va: int, error_code: int) -> None:
    """A fault of the guest at `va`."""
    if not error_code & PFEC_FETCH and any(
        v.cpu.d[SEGMENT_LIMIT + 6 * segment] != U32 for segment in SEGMENT_REGISTERS.values()
    ):
        segment = behind_limit(v, va)
        if segment is not None:
            v.exits["segment limit"] += 1
            inject_hw_exception(v, EXC_SS if segment == SS else EXC_GP)
            return
    handle_page_fault(v, va, error_code)


def behind_limit(v: X86Vcpu, va: int) -> int | None:
    """The segment through which the instruction at rip accesses `va`, if that lies behind its limit."""
    try:
        instruction = v.decoder.decode(v.cpu.base(CS) + v.cpu.q[RIP] & U32)
    except GuestFault:
        return None
    for operand in instruction.operands if instruction is not None else ():
        if operand.type != capstone.x86.X86_OP_MEM:
            continue
        segment = segment_of(operand)
        offset = v.decoder.offset(operand) & U32
        if va - (v.cpu.base(segment) + offset) & U32 >= operand.size:
            continue
        at = 6 * segment
        flags, limit = v.cpu.d[SEGMENT_FLAGS + at], v.cpu.d[SEGMENT_LIMIT + at]
        if not (flags & EXPAND_DOWN and not flags & DESC_CODE) and offset + operand.size - 1 > limit:
            return segment
    return None
