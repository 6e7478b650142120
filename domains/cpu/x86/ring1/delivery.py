"""The one way by which exceptions, INT n and interrupts reach the guest: what a CPU does with IDT and TSS.

    its IDT's gate ─► its GDT's code segment ─► from ring 3: the stack that its TSS names ─► a frame there

Nothing of the CPU's state changes until all of it is known to go. A fault in the midst becomes a double fault where a CPU makes
it one, and a triple fault ends the guest. Interrupt and trap gates of 32 bits alone; others are refused as a bad gate is.
Source: Intel SDM vol. 3A §6.12, §6.15; vol. 2A INT.
"""

import struct
from typing import Final, NoReturn

from domains.cpu.x86.descriptors import DESC_DB, Loaded
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.registers import (
    CS,
    EFLAGS_IF,
    EFLAGS_NT,
    EFLAGS_RF,
    EFLAGS_TF,
    EFLAGS_VM,
    EXC_DF,
    EXC_GP,
    EXC_NP,
    EXC_TS,
    GPR_NAMES,
    RSP,
    SS,
    U32,
    XEC_EXT,
    XEC_IDT,
)
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.segments import NO_RPL, code_by_gate, put_in_force, stack, stack_in_force
from domains.cpu.x86.ring1.vcpu import Ring1Vcpu

GATE: Final = struct.Struct("<2I")
INTERRUPT_GATE, TRAP_GATE = 0xE, 0xF
GATE_PRESENT: Final = 1 << 15
STACK_OF_TSS: Final = struct.Struct("<IH")
STACK_OF_TSS_AT: Final = 4
CLEARED: Final = EFLAGS_TF | EFLAGS_NT | EFLAGS_RF | EFLAGS_VM
MAX_FRAME: Final = 6


def deliver(v: Ring1Vcpu, exception: GuestException) -> None:
    """Give the guest an exception, or what becomes of it."""
    while True:
        if exception.va is not None:
            v.paging.cr2 = exception.va & U32
        try:
            enter(v, exception.vector, exception.error_code)
            return
        except GuestException as second:
            if exception.vector == EXC_DF:
                triple_fault(v)
            exception = exception.followed_by(second)


def deliver_interrupt(v: Ring1Vcpu, vector: int) -> None:
    """Give the guest an interrupt of its board."""
    try:
        enter(v, vector)
    except GuestException as exception:
        deliver(v, exception)


def deliver_software(v: Ring1Vcpu, vector: int, length: int) -> None:
    """INT n, INT3 or INTO of `length` bytes, behind which rip is. What refuses it is a fault of that instruction."""
    try:
        enter(v, vector, software=True)
    except GuestException as exception:
        v.skip(-length)
        deliver(v, exception)


def enter(v: Ring1Vcpu, vector: int, error_code: int | None = None, *, software: bool = False) -> None:
    """Enter the guest's handler. Raises GuestException, with nothing changed but what was pushed."""
    external = 0 if software else XEC_EXT
    selector, offset, kind = _gate(v, vector, software=software)
    code, ring = code_by_gate_of(v, selector, external)
    old_ss, old_esp = v.selector(SS), v.cpu.q[RSP] & U32
    words = [] if error_code is None else [error_code & U32]
    words += [v.cpu.q[RIP] & U32, v.selector(CS), v.flags]
    if ring < v.ring:
        ss, esp, segment = _inner_stack(v)
        words += [old_esp, old_ss]
    else:
        ss, esp, segment = old_ss, old_esp, stack_in_force(v)
    esp = _push(v, ring, segment, esp, words)
    put_in_force(v, ring, selector, code, ss, segment)
    v.cpu.q[RSP], v.cpu.q[RIP] = esp, offset
    v.cpu.rflags &= ~CLEARED
    if kind == INTERRUPT_GATE:
        v.state.flags &= ~EFLAGS_IF
    v.state.inhibited = False


def code_by_gate_of(v: Ring1Vcpu, selector: int, external: int) -> tuple[int, int]:
    """The gate's code segment; `external`: the bit of an error code that says that no INT n was the reason."""
    try:
        return code_by_gate(v, selector)
    except GuestException as refused:
        if refused.va is None and refused.error_code is not None:
            refused.error_code |= external
        raise


def _gate(v: Ring1Vcpu, vector: int, *, software: bool) -> tuple[int, int, int]:
    """Selector, offset and kind of the gate. Raises GuestException."""
    idtr = v.state.idtr
    at = vector * GATE.size
    refused = at | XEC_IDT | (0 if software else XEC_EXT)
    if at + GATE.size - 1 > idtr.limit:
        raise GuestException(EXC_GP, refused)
    low, high = GATE.unpack(v.read_system(idtr.base + at, GATE.size))
    kind = high >> 8 & 0x1F
    if kind not in (INTERRUPT_GATE, TRAP_GATE) or (software and high >> 13 & 3 < v.ring):
        raise GuestException(EXC_GP, refused)
    if not high & GATE_PRESENT:
        raise GuestException(EXC_NP, refused)
    return low >> 16, low & 0xFFFF | high & 0xFFFF0000, kind


def _inner_stack(v: Ring1Vcpu) -> tuple[int, int, Loaded]:
    """Ring 0's stack, as the TSS has it: SS, ESP, the segment. Raises GuestException."""
    tr = v.state.tr
    if tr.limit < STACK_OF_TSS_AT + STACK_OF_TSS.size - 1:
        raise GuestException(EXC_TS, tr.selector & NO_RPL)
    esp, ss = STACK_OF_TSS.unpack(v.read_system(tr.base + STACK_OF_TSS_AT, STACK_OF_TSS.size))
    return ss, esp, stack(v, ss, 0, EXC_TS)


def _push(v: Ring1Vcpu, ring: int, segment: Loaded, esp: int, words: list[int]) -> int:
    """Write a frame below `esp`; where the stack pointer is then. Raises GuestException."""
    mask = U32 if segment[2] & DESC_DB else 0xFFFF
    new = esp - 4 * len(words) & mask
    write = v.write_system if ring == 0 else v.write
    write(segment[0] + new & U32, struct.pack(f"<{len(words)}I", *words))
    return new | esp & ~mask & U32


def triple_fault(v: Ring1Vcpu) -> NoReturn:
    """The guest's CPU shuts down."""
    v.board.triple_fault(report(v, "triple fault"))


def report(v: Ring1Vcpu, what: str) -> str:
    """What happened, and the registers."""
    q = v.cpu.q
    names = "  ".join(f"e{name[1:]} {q[number] & U32:08x}" for number, name in enumerate(GPR_NAMES[:8]))
    controls = "  ".join(f"cr{number} {v.paging.control(number):08x}" for number in (0, 2, 3, 4))
    return f"ring {v.ring} at {q[RIP]:#x}: {what}\n{names}\neflags {v.flags:08x}  {controls}"
