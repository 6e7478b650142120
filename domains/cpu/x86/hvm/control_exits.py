"""Exits by accesses to control registers: all of those that matter with shadow paging, with nested paging stores to CR4 alone,
of which the emulated CPU takes bits that are not advertised.

Source: Xen arch/x86/hvm/svm/svm.c (svm_vmexit_do_cr_access), arch/x86/hvm/hvm.c (hvm_set_cr4).
"""

from collections.abc import Callable
from typing import Final

from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.emulator.svm import NOTHING, Exit, exception
from domains.cpu.x86.hvm.paging import HvmPaging
from domains.cpu.x86.hvm.report import crash
from domains.cpu.x86.hvm.vcpu import HvmVcpu
from domains.cpu.x86.registers import CR0_TS, EXC_GP, U32

LONGEST_MOVE: Final = 5
"""Bytes of a MOV to or from a control register, with a prefix that says nothing."""
MOV_FROM_CR, MOV_TO_CR, CLTS, TWO_BYTES = 0x20, 0x22, 0x06, 0x0F
REX, REX_MASK, REX_B = 0x40, 0xF0, 1
LMSW_BITS: Final = 0xF


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
        code = v.decoder.fetch(v.mode.linear_rip, LONGEST_MOVE).ljust(LONGEST_MOVE, b"\0")
        rex = code[0] if v.mode.in_64bit_code and code[0] & REX_MASK == REX else 0
        start = 1 if rex else 0
        opcode, modrm = code[start + 1], code[start + 2]
        number, register = modrm >> 3 & 7, modrm & 7 | (rex & REX_B) << 3
        wide = v.mode.in_64bit_code
        if code[start] != TWO_BYTES:
            return self._other(v)
        if opcode == MOV_FROM_CR:
            v.cpu.q[register] = self._paging.control(number)
            v.mode.skip(start + 3)
            return NOTHING
        if opcode == MOV_TO_CR:
            return self._write(v, number, v.cpu.q[register] if wide else v.cpu.q[register] & U32, start + 3)
        if opcode == CLTS:
            return self._write(v, 0, self._paging.control(0) & ~CR0_TS, start + 2)
        return self._other(v)

    def _write(self, v: HvmVcpu, number: int, value: int, length: int) -> int:
        v.mode.skip(length)
        if self._paging.write_control(number, value):
            return NOTHING
        v.cpu.q[RIP] -= length
        return exception(EXC_GP)

    def _other(self, v: HvmVcpu) -> int:
        """LMSW and SMSW, and a MOV with prefixes."""
        instruction = v.decoder.decode(v.mode.linear_rip)
        if instruction is None or instruction.name not in ("lmsw", "smsw"):
            crash(
                v,
                f"a control register is accessed by {instruction.text if instruction else 'no instruction'}",
            )
        (operand,) = instruction.operands
        at = v.decoder.effective_address(operand, instruction.length) if not operand.reg else None
        cr0 = self._paging.control(0)
        if instruction.name == "smsw":
            if at is None:
                v.decoder.write_register(operand.reg, cr0)
            else:
                v.paging.write(at, (cr0 & 0xFFFF).to_bytes(2, "little"))
            v.mode.skip(instruction.length)
            return NOTHING
        word = (
            v.decoder.read_register(operand.reg)
            if at is None
            else int.from_bytes(v.paging.read(at, 2), "little")
        )
        return self._write(v, 0, cr0 & ~(LMSW_BITS - 1) | word & LMSW_BITS, instruction.length)
