"""Exits by accesses to control registers: all of those that matter with shadow paging, with nested paging stores to CR4 alone,
of which the emulated CPU takes bits that are not advertised.

Source: Xen arch/x86/hvm/svm/svm.c (svm_vmexit_do_cr_access), arch/x86/hvm/hvm.c (hvm_set_cr4).
"""

import re
from collections.abc import Callable
from typing import Final

import capstone.x86

from domains.cpu.x86.decode import MAX_LENGTH
from domains.cpu.x86.emulator.cpu_state import CR, RIP
from domains.cpu.x86.emulator.svm import NOTHING, Exit, exception
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.report import crash
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.paging import GuestFault, NotMapped
from domains.cpu.x86.registers import CR0_TS, EXC_GP, EXC_PF, EXC_SS, EXC_UD, U32, U64
from domains.cpu.x86.segment_limit import limit_fault
from domains.cpu.x86.stack_fault import is_stack_fault
from hypervisor.machine.paging import PFEC_FETCH, PFEC_USER, is_canonical
from hypervisor.public.types import PAGE_SHIFT

PREFIXES: Final = re.compile(rb"[\x26\x2e\x36\x3e\x64-\x67\xf0\xf2\xf3]*[\x40-\x4f]?")
"""What may stand before the opcode, a REX prefix last. It says nothing, but for LOCK: with that there is no such instruction."""
LOCK: Final = 0xF0
MOV_FROM_CR, MOV_TO_CR, CLTS = 0x20, 0x22, 0x06
REX, REX_MASK, REX_B = 0x40, 0xF0, 1
LMSW_BITS: Final = 0xF
USER_RING: Final = 3


class ControlExits:
    """One vCPU's; `handlers` are for the table of exits."""

    def __init__(self, paging: HvmPaging) -> None:
        self._paging = paging
        self.handlers: dict[int, tuple[str, Callable[[HvmVcpu], int]]] = {
            code: (code.name.lower().replace("_", " "), self.do_control_register)
            for code in Exit
            if code.name.startswith(("READ_CR", "WRITE_CR"))
        }

    def do_control_register(self, v: HvmVcpu) -> int:
        """MOV to and from CR0, CR3 and CR4, CLTS, LMSW and SMSW."""
        return or_fault(v, self._carry_out)

    def _carry_out(self, v: HvmVcpu) -> int:
        code = v.decoder.fetch(v.mode.linear_rip, MAX_LENGTH)
        start = PREFIXES.match(code).end()  # type: ignore[union-attr]  # the empty string is a match
        if LOCK in code[:start]:
            return exception(EXC_UD)
        rex = code[start - 1] if start and code[start - 1] & REX_MASK == REX else 0
        opcode, modrm = code.ljust(start + 3, b"\0")[start + 1 : start + 3]
        number, register = modrm >> 3 & 7, modrm & 7 | (rex & REX_B) << 3
        wide = v.mode.in_64bit_code
        if opcode == MOV_FROM_CR:
            v.cpu.q[register] = self._paging.control(number)
            v.mode.skip(start + 3)
            return NOTHING
        if opcode == MOV_TO_CR:
            return self._write(v, number, v.cpu.q[register] if wide else v.cpu.q[register] & U32, start + 3)
        if opcode == CLTS:
            return self._write(v, 0, self._paging.control(0) & ~CR0_TS, start + 2)
        return self._machine_status(v)

    def _write(self, v: HvmVcpu, number: int, value: int, length: int) -> int:
        v.mode.skip(length)
        if self._paging.write_control(number, value):
            return NOTHING
        v.cpu.q[RIP] -= length
        return exception(EXC_GP)

    def _machine_status(self, v: HvmVcpu) -> int:
        """LMSW and SMSW."""
        instruction = v.decoder.decode(v.mode.linear_rip)
        if instruction is None or instruction.name not in ("lmsw", "smsw"):
            text = instruction.text if instruction else "no instruction"
            crash(v, f"a control register is accessed by {text}")
        (operand,) = instruction.operands
        at = None
        if operand.type == capstone.x86.X86_OP_MEM:
            at = v.decoder.linear(operand, instruction.length)
        cr0 = self._paging.control(0)
        if instruction.name == "lmsw":
            word = v.decoder.source(operand) if at is None else int.from_bytes(v.paging.read(at, 2), "little")
            return self._write(v, 0, cr0 & ~(LMSW_BITS - 1) | word & LMSW_BITS, instruction.length)
        if at is None:
            v.decoder.write_register(operand.reg, cr0)
        else:
            _store(v, at, (cr0 & 0xFFFF).to_bytes(2, "little"))
        v.mode.skip(instruction.length)
        return NOTHING


def or_fault(v: HvmVcpu, instruction: Callable[[HvmVcpu], int]) -> int:
    """Carry out the instruction at rip. What the guest gets instead of it: its own fault, or #GP where no memory is."""
    try:
        return instruction(v)
    except GuestFault as fault:
        if not fault.error_code & PFEC_FETCH:
            instead = limit_fault(v.cpu, v.decoder, fault.va) or _not_canonical(v, fault.va)
            if instead is not None:
                return exception(instead)
        v.cpu.q[CR + 2] = fault.va
        return exception(EXC_PF, fault.error_code | (PFEC_USER if v.mode.cpl == USER_RING else 0))
    except NotMapped:
        return exception(EXC_GP)


def _not_canonical(v: HvmVcpu, va: int) -> int | None:
    """EXC_SS or EXC_GP if no paging gives a meaning to such an address."""
    if not v.mode.in_64bit_code or is_canonical(va):
        return None
    instruction = v.decoder.decode(v.mode.linear_rip)
    return EXC_SS if instruction and is_stack_fault(v.cpu, v.decoder, instruction) else EXC_GP


def _store(v: HvmVcpu, at: int, data: bytes) -> None:
    """All of it or nothing; it may be code."""
    pages = {v.paging.translate(at + n & U64, write=True) >> PAGE_SHIFT for n in range(len(data))}
    v.paging.write(at, data)
    for page in pages:
        v.paging.invalidate_code(page)
