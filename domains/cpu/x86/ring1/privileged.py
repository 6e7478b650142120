"""Privileged instructions, which trap outside ring 0: done on the guest's own registers.

A handler raises GuestException for what the guest's CPU would refuse, and says whether rip is where the guest goes on.
Source: Intel SDM vol. 3A §5.9; vol. 2 for each.
"""

import time
from typing import Final

import capstone.x86

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.descriptors import DESC_PRESENT, unpack
from domains.cpu.x86.emulator.cpu_state import EFER
from domains.cpu.x86.hvm.cpuid import hvm_cpuid
from domains.cpu.x86.registers import (
    CR0_PE,
    CR0_TS,
    EFER_NX,
    EFLAGS_IF,
    EXC_GP,
    EXC_NP,
    EXC_UD,
    MSR_EFER,
    MSR_TSC,
    RAX,
    RBX,
    RCX,
    RDX,
    U32,
)
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.ports import PORTS, io_allowed
from domains.cpu.x86.ring1.segments import NO_RPL, descriptor, high_of
from domains.cpu.x86.ring1.state import TableRegister
from domains.cpu.x86.ring1.vcpu import Handler, Ring1Vcpu

CR_NUMBERS: Final = {getattr(capstone.x86, f"X86_REG_CR{n}"): n for n in (0, 2, 3, 4)}
DR_NUMBERS: Final = {getattr(capstone.x86, f"X86_REG_DR{n}"): n for n in range(8)}
LDT, TSS_AVAILABLE = 0x2, 0x9
BUSY: Final = 2
LMSW_BITS: Final = 0xF


def ring_0(v: Ring1Vcpu) -> None:
    """Raises the exception of an instruction for ring 0 alone."""
    if v.ring:
        raise GuestException(EXC_GP, 0)


def do_cli(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """CLI."""
    io_allowed(v)
    v.state.flags &= ~EFLAGS_IF
    return False


def do_sti(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """STI: interrupts come after the next instruction."""
    io_allowed(v)
    v.state.inhibited = not v.state.interrupts
    v.state.flags |= EFLAGS_IF
    return False


def do_hlt(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """HLT: the board says when there is an interrupt."""
    ring_0(v)
    v.skip(instruction.length)
    v.board.halt(interrupts=v.state.interrupts)
    return True


def do_mov(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """MOV to and from control and debug registers."""
    ring_0(v)
    target, source = (operand.reg for operand in instruction.operands)
    if target in CR_NUMBERS:
        write_control(v, CR_NUMBERS[target], v.decoder.read_register(source))
    elif source in CR_NUMBERS:
        v.decoder.write_register(target, v.paging.control(CR_NUMBERS[source]))
    elif target in DR_NUMBERS:
        v.state.dr[DR_NUMBERS[target]] = v.decoder.read_register(source)
    elif source in DR_NUMBERS:
        v.decoder.write_register(target, v.state.dr[DR_NUMBERS[source]])
    else:
        raise GuestException(EXC_UD)
    return False


def write_control(v: Ring1Vcpu, number: int, value: int) -> None:
    """MOV to CR0, CR2, CR3 or CR4."""
    if number == 2:
        v.paging.cr2 = value
        return
    if number == 0 and not value & CR0_PE:
        v.board.crash("real mode is not virtualized")
    if not v.paging.write_control(number, value):
        raise GuestException(EXC_GP, 0)
    v.refresh_descriptors()


def do_clts(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """CLTS."""
    ring_0(v)
    v.paging.write_control(0, v.paging.control(0) & ~CR0_TS)
    return False


def do_lmsw(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LMSW, which cannot clear PE."""
    ring_0(v)
    word = word_operand(v, instruction)
    write_control(v, 0, v.paging.control(0) & ~(LMSW_BITS - 1) | word & LMSW_BITS)
    return False


def do_invlpg(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """INVLPG."""
    ring_0(v)
    v.paging.invalidate(v.decoder.linear_32(instruction.operands[0]))
    v.refresh_descriptors()
    return False


def do_lgdt(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LGDT."""
    v.gdt.load(_pseudo_descriptor(v, instruction))
    return False


def do_lidt(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LIDT."""
    v.state.idtr = _pseudo_descriptor(v, instruction)
    return False


def _pseudo_descriptor(v: Ring1Vcpu, instruction: Instruction) -> TableRegister:
    ring_0(v)
    data = v.read(v.decoder.linear_32(instruction.operands[0]), 6)
    return TableRegister(int.from_bytes(data[2:], "little"), int.from_bytes(data[:2], "little"))


def do_lldt(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LLDT."""
    ring_0(v)
    selector = word_operand(v, instruction)
    if not selector & ~3:
        v.ldt.load(TableRegister(selector=selector))
        return False
    base, limit, high = unpack(_system(v, selector, LDT))
    v.ldt.load(TableRegister(base, limit, selector), high)
    return False


def do_ltr(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LTR, which marks the TSS as busy."""
    ring_0(v)
    selector = word_operand(v, instruction)
    word = _system(v, selector, TSS_AVAILABLE)
    at = v.gdt.guest.base + (selector & ~7) + 5
    v.write_system(at, bytes([word >> 40 & 0xFF | BUSY]))
    base, limit, _ = unpack(word)
    v.state.tr = TableRegister(base, limit, selector)
    return False


def _system(v: Ring1Vcpu, selector: int, kind: int) -> int:
    """The descriptor of a system segment of this type. Raises GuestException."""
    if selector & 4:
        raise GuestException(EXC_GP, selector & NO_RPL)
    word = descriptor(v, selector)
    if high_of(word) >> 8 & 0x1F != kind:
        raise GuestException(EXC_GP, selector & NO_RPL)
    if not high_of(word) & DESC_PRESENT:
        raise GuestException(EXC_NP, selector & NO_RPL)
    return word


def word_operand(v: Ring1Vcpu, instruction: Instruction) -> int:
    """The 16 bits of a register or memory operand, the last one."""
    operand = instruction.operands[-1]
    if operand.type == capstone.x86.X86_OP_MEM:
        return int.from_bytes(v.read(v.decoder.linear_32(operand), 2), "little")
    return v.decoder.read_register(operand.reg) & 0xFFFF


def do_rdmsr(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """RDMSR: EFER, whose NX alone there is, and the time-stamp counter."""
    ring_0(v)
    q = v.cpu.q
    number = q[RCX] & U32
    if number == MSR_TSC:
        return do_rdtsc(v, _instruction)
    if number != MSR_EFER:
        raise GuestException(EXC_GP, 0)
    q[RAX], q[RDX] = q[EFER] & EFER_NX, 0
    return False


def do_wrmsr(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """WRMSR: likewise."""
    ring_0(v)
    q = v.cpu.q
    value = (q[RDX] & U32) << 32 | q[RAX] & U32
    if q[RCX] & U32 != MSR_EFER or value & ~EFER_NX:
        raise GuestException(EXC_GP, 0)
    q[EFER] = q[EFER] & ~EFER_NX | value
    v.paging.invalidate_all()
    return False


def do_rdtsc(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """RDTSC: nanoseconds of the host's clock."""
    now = time.monotonic_ns()
    v.cpu.q[RAX], v.cpu.q[RDX] = now & U32, now >> 32 & U32
    return False


def do_cpuid(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """CPUID: what HVM guests see."""
    q = v.cpu.q
    q[RAX], q[RBX], q[RCX], q[RDX] = hvm_cpuid(q[RAX] & U32, q[RCX] & U32, 0, 0)
    return False


def do_cache(v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """WBINVD and INVD: there is no cache to write back."""
    ring_0(v)
    return False


PRIVILEGED: Final[dict[str, Handler]] = {
    "cli": do_cli,
    "sti": do_sti,
    "hlt": do_hlt,
    **PORTS,
    "clts": do_clts,
    "lmsw": do_lmsw,
    "invlpg": do_invlpg,
    "lgdt": do_lgdt,
    "lidt": do_lidt,
    "lldt": do_lldt,
    "ltr": do_ltr,
    "rdmsr": do_rdmsr,
    "wrmsr": do_wrmsr,
    "wbinvd": do_cache,
    "invd": do_cache,
}
"""By mnemonic; MOV is told apart by its operands (`privileged`)."""


def privileged(instruction: Instruction) -> tuple[str, Handler] | None:
    """Its name as a cause of exits, and its handler, if it is such an instruction."""
    name = instruction.name
    if name == "mov" and len(instruction.operands) == 2:
        target, source = (operand.reg for operand in instruction.operands)
        for register, where in ((target, "to"), (source, "from")):
            if register in CR_NUMBERS:
                return f"mov {where} cr{CR_NUMBERS[register]}", do_mov
            if register in DR_NUMBERS:
                return f"mov {where} dr", do_mov
    return (name, PRIVILEGED[name]) if name in PRIVILEGED else None
