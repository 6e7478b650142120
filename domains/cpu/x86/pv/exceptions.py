"""What the CPU's exceptions mean to a PV guest: one table from vector to handler, and software interrupts.

Source: Xen arch/x86/traps.c.
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.cpu_state import CR, RIP
from domains.cpu.x86.emulator.interposed import interposed
from domains.cpu.x86.paging import GuestFault
from domains.cpu.x86.pv.bounce import (
    inject_debug,
    inject_hw_exception,
    inject_page_fault,
    inject_sw_interrupt,
    permits_software_interrupt,
)
from domains.cpu.x86.pv.crash import crash
from domains.cpu.x86.pv.privileged import DR6_BS, emulate_privileged
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import (
    EFLAGS_TF,
    EXC_BP,
    EXC_DB,
    EXC_GP,
    EXC_NM,
    EXC_OF,
    EXC_PF,
    EXC_SS,
    U64,
    XEC_IDT,
)
from domains.cpu.x86.stack_fault import is_stack_fault
from hypervisor.machine.paging import is_canonical

INT80: Final = 0x80


def handle_exception(v: X86Vcpu, vector: int, error_code: int) -> None:
    """A fault or trap that an instruction caused; rip is where the CPU has it."""
    HANDLERS.get(vector, handle_other)(v, vector, error_code)


def handle_software_interrupt(v: X86Vcpu, vector: int) -> None:
    """INT n, INT3 or INTO, rip behind it. INT3 and INTO need no permission, nor does a vector 0x80 that has a handler."""
    gate = v.pv.traps[vector]
    if vector in (EXC_BP, EXC_OF):
        inject_hw_exception(v, vector)
    elif (vector == INT80 and gate is not None and gate.address) or permits_software_interrupt(v, vector):
        inject_sw_interrupt(v, vector)
    else:
        v.cpu.q[RIP] = v.cpu.q[RIP] - interposed().int_length.value & U64
        inject_hw_exception(v, EXC_GP, vector << 3 | XEC_IDT)


def handle_other(v: X86Vcpu, vector: int, error_code: int) -> None:
    """An exception that Xen hands on as it is."""
    inject_hw_exception(v, vector, error_code)


def handle_pf(v: X86Vcpu, _vector: int, error_code: int) -> None:
    """A page fault; its address is in CR2."""
    v.entry.page_fault(v, v.cpu.q[CR + 2], error_code)


def handle_db(v: X86Vcpu, _vector: int, _error_code: int) -> None:
    """A breakpoint, or single-stepping, or both."""
    hits = v.breakpoints.take()
    stepped = not hits or v.cpu.rflags & EFLAGS_TF
    inject_debug(v, hits | (DR6_BS if stepped else 0))


def handle_nm(v: X86Vcpu, vector: int, _error_code: int) -> None:
    """The FPU was used with the guest's CR0.TS set; the ABI clears it."""
    if not v.pv.cr0_ts:
        crash(v, "#NM, but the guest's CR0.TS is clear")
    v.set_ts(False)
    inject_hw_exception(v, vector)


def handle_gp(v: X86Vcpu, _vector: int, error_code: int) -> None:
    """Without an error code it may be a privileged instruction, or what a real CPU reports as #SS."""
    if error_code or not is_canonical(v.cpu.q[RIP]):
        inject_hw_exception(v, EXC_GP, error_code)
        return
    try:
        instruction = v.decoder.decode(v.cpu.q[RIP])
    except GuestFault as fault:
        inject_page_fault(v, fault.va, fault.error_code)
        return
    if instruction is not None and emulate_privileged(v, instruction):
        return
    stack = instruction is not None and is_stack_fault(v.cpu, v.decoder, instruction)
    inject_hw_exception(v, EXC_SS if stack else EXC_GP, 0)


HANDLERS: Final[dict[int, Callable[[X86Vcpu, int, int], None]]] = {
    EXC_DB: handle_db,
    EXC_NM: handle_nm,
    EXC_GP: handle_gp,
    EXC_PF: handle_pf,
}
