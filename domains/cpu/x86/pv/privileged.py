"""Privileged instructions of the guest's kernel, which fault at CPL 3: emulated as Xen does, or #GP.

    cli sti            checked against the guest's IOPL, else without effect: events are masked in vcpu_info
    in out             see io_ports
    mov cr, mov dr     see control_registers, debug_registers
    clts rdmsr wrmsr   see vcpu.set_ts, msr
    rdtsc              only faults when the guest set CR4.TSD: then the kernel's is done, user space's refused
    wbinvd             without effect
Everything else (hlt, invlpg, lgdt, …) is the guest's #GP. Source: Xen arch/x86/pv/emul-priv-op.c.
"""

from collections.abc import Callable
from typing import Final, NoReturn

import capstone.x86

from domains.cpu.x86.decode import Instruction
from domains.cpu.x86.emulator.cpu_state import RIP
from domains.cpu.x86.pv.bounce import inject_debug, inject_hw_exception
from domains.cpu.x86.pv.control_registers import READ_CR, WRITE_CR, write_cr3
from domains.cpu.x86.pv.debug_registers import read_dr, write_dr
from domains.cpu.x86.pv.io_ports import NO_DEVICE, iopl_ok
from domains.cpu.x86.pv.msr import read_msr, write_msr
from domains.cpu.x86.pv.pit import PORTS as PIT_PORTS
from domains.cpu.x86.pv.vcpu import X86Vcpu
from domains.cpu.x86.registers import EFLAGS_TF, EXC_GP, EXC_UD, RAX, RCX, RDX, U32, U64
from hypervisor.public.errno import Errno, XenError

DR6_BS: Final = 1 << 14
CR_NUMBERS: Final = {getattr(capstone.x86, f"X86_REG_CR{n}"): n for n in range(9)}
DR_NUMBERS: Final = {getattr(capstone.x86, f"X86_REG_DR{n}"): n for n in range(8)}


class Refused(Exception):
    """The instruction is #GP for this guest, or the exception named."""

    def __init__(self, vector: int | None = None) -> None:
        super().__init__(vector)
        self.vector = vector


class Asked(Exception):
    """The core is asked: its answer ends the instruction."""


def emulate_privileged(v: X86Vcpu, instruction: Instruction) -> bool:
    """Do the instruction at rip; False if it stays a #GP."""
    handler = HANDLERS.get(instruction.name)
    if handler is None:
        return False
    if instruction.name not in IOPL_SENSITIVE and not v.mode.in_kernel:
        return False
    try:
        handler(v, instruction)
    except Refused as refused:
        if refused.vector is None:
            return False
        inject_hw_exception(v, refused.vector)
        return True
    except Asked:
        return True
    _complete(v, instruction)
    return True


def _complete(v: X86Vcpu, instruction: Instruction) -> None:
    v.exits[f"emulated {instruction.name}"] += 1
    v.cpu.q[RIP] = v.cpu.q[RIP] + instruction.length & U64
    if v.cpu.rflags & EFLAGS_TF:
        inject_debug(v, DR6_BS)


def do_interrupt_flag(v: X86Vcpu, _instruction: Instruction) -> None:
    """CLI and STI do nothing; Refused (#GP) below the I/O privilege level."""
    if not iopl_ok(v):
        raise Refused


def do_in(v: X86Vcpu, instruction: Instruction) -> None:
    """IN: all ones, except from the timer's ports."""
    if not iopl_ok(v):
        raise Refused
    target, source = instruction.operands
    port = v.decoder.source(source)
    found = v.pv.pit.read(port) if port in PIT_PORTS and target.size == 1 else NO_DEVICE
    v.decoder.write_register(target.reg, found)


def do_out(v: X86Vcpu, instruction: Instruction) -> None:
    """OUT: ignored, except to the timer's ports."""
    if not iopl_ok(v):
        raise Refused
    target, source = instruction.operands
    port = v.decoder.source(target)
    if port in PIT_PORTS and source.size == 1:
        v.pv.pit.write(port, v.decoder.source(source))


def do_mov(v: X86Vcpu, instruction: Instruction) -> None:
    """MOV to or from a control or debug register."""
    registers = [operand.reg for operand in instruction.operands if operand.type == capstone.x86.X86_OP_REG]
    if len(registers) != 2:
        raise Refused
    target, source = registers
    if source in CR_NUMBERS and CR_NUMBERS[source] in READ_CR:
        v.decoder.write_register(target, READ_CR[CR_NUMBERS[source]](v))
    elif target == capstone.x86.X86_REG_CR3:
        _load_cr3(v, instruction, v.decoder.read_register(source))
    elif target in CR_NUMBERS and CR_NUMBERS[target] in WRITE_CR:
        if not WRITE_CR[CR_NUMBERS[target]](v, v.decoder.read_register(source)):
            raise Refused
    elif source in DR_NUMBERS:
        v.decoder.write_register(target, _debug(lambda: read_dr(v.pv, DR_NUMBERS[source])) or 0)
    elif target in DR_NUMBERS:
        _debug(lambda: write_dr(v.pv, DR_NUMBERS[target], v.decoder.read_register(source)))
        v.breakpoints.changed()
    else:
        raise Refused


def _load_cr3(v: X86Vcpu, instruction: Instruction, value: int) -> NoReturn:
    def finish(accepted: bool) -> None:
        if accepted:
            _complete(v, instruction)
        else:
            inject_hw_exception(v, EXC_GP)

    write_cr3(v, value, finish)
    raise Asked


def _debug(access: Callable[[], int | None]) -> int | None:
    try:
        return access()
    except XenError as error:
        raise Refused(EXC_UD if error.errno is Errno.ENODEV else None) from None


def do_clts(v: X86Vcpu, _instruction: Instruction) -> None:
    """Clears CR0.TS."""
    v.set_ts(False)


def do_rdmsr(v: X86Vcpu, _instruction: Instruction) -> None:
    """Reads an MSR. Refused (#GP): there is none."""
    q = v.cpu.q
    value = read_msr(v, q[RCX] & U32)
    if value is None:
        raise Refused
    q[RAX], q[RDX] = value & U32, value >> 32


def do_wrmsr(v: X86Vcpu, _instruction: Instruction) -> None:
    """Writes an MSR. Refused (#GP): not there, or not that value."""
    q = v.cpu.q
    if not write_msr(v, q[RCX] & U32, (q[RDX] & U32) << 32 | q[RAX] & U32):
        raise Refused


def do_rdtsc(v: X86Vcpu, _instruction: Instruction) -> None:
    """RDTSC of a guest that may not read it itself: nanoseconds."""
    now = v.clock.tsc()
    v.cpu.q[RAX], v.cpu.q[RDX] = now & U32, now >> 32


def do_nothing(_v: X86Vcpu, _instruction: Instruction) -> None:
    """wbinvd: there is no cache to write back."""


HANDLERS: Final[dict[str, Callable[[X86Vcpu, Instruction], None]]] = {
    "cli": do_interrupt_flag,
    "sti": do_interrupt_flag,
    "in": do_in,
    "out": do_out,
    "mov": do_mov,
    "clts": do_clts,
    "rdmsr": do_rdmsr,
    "wrmsr": do_wrmsr,
    "rdtsc": do_rdtsc,
    "wbinvd": do_nothing,
}
"""By mnemonic. A handler raises Refused for #GP."""
IOPL_SENSITIVE: Final = frozenset({"cli", "sti", "in", "out"})
"""These are allowed in user space too, if the guest's IOPL says so."""
