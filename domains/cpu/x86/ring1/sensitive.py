"""Sensitive instructions that do not trap (Robin and Irvine 2000): in ring 1 they tell of the monitor, or do less than in ring 0.

    POPF IRET                    lose IF silently
    PUSHF                        tells IF and IOPL of the monitor
    SGDT SIDT SLDT STR SMSW      tell its registers
    PUSH and MOV from CS or SS, far CALL, LAR LSL VERR VERW      tell its rings

The translator puts a trap in their place (ring1/translator); here is what the guest gets. So are those that Unicorn does not trap
though a CPU would, or could be told to: IN and OUT (ports.py), RDTSC, CPUID, SYSCALL, SYSENTER.
"""

from typing import Final

import capstone.x86

from domains.cpu.x86.decode import SEGMENT_REGISTERS, Instruction, Operand
from domains.cpu.x86.descriptors import DESC_CODE, DESC_CONFORMING, DESC_S, DESC_WRITABLE, unpack
from domains.cpu.x86.registers import CS, EFLAGS_ZF, EXC_UD, SS
from domains.cpu.x86.ring1.exception import GuestException
from domains.cpu.x86.ring1.ports import PORTS
from domains.cpu.x86.ring1.privileged import do_cpuid, do_rdtsc, word_operand
from domains.cpu.x86.ring1.segments import descriptor, high_of
from domains.cpu.x86.ring1.transfers import do_far_call, do_iret
from domains.cpu.x86.ring1.vcpu import Handler, Ring1Vcpu

RF_AND_VM: Final = 3 << 16
ACCESS_RIGHTS: Final = 0x00F0FF00
LAR_TYPES: Final = frozenset({1, 2, 3, 4, 5, 9, 11, 12})
LSL_TYPES: Final = frozenset({1, 2, 3, 9, 11})


def do_pushf(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """PUSHF."""
    v.push(v.flags & ~RF_AND_VM, 2 if instruction.name == "pushf" else 4)
    return False


def do_popf(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """POPF."""
    size = 2 if instruction.name == "popf" else 4
    value = v.stack(0, size)
    v.move_stack(size)
    v.load_flags(value, size, v.ring)
    return False


def do_store_gdtr(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """SGDT."""
    _store(v, instruction, v.gdt.guest.limit, v.gdt.guest.base)
    return False


def do_store_idtr(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """SIDT."""
    _store(v, instruction, v.state.idtr.limit, v.state.idtr.base)
    return False


def _store(v: Ring1Vcpu, instruction: Instruction, limit: int, base: int) -> None:
    v.write(
        v.decoder.linear_32(instruction.operands[0]), limit.to_bytes(2, "little") + base.to_bytes(4, "little")
    )


def do_sldt(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """SLDT."""
    put_word(v, instruction.operands[0], v.ldt.guest.selector)
    return False


def do_str(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """STR."""
    put_word(v, instruction.operands[0], v.state.tr.selector)
    return False


def do_smsw(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """SMSW, which in a register gives all of CR0."""
    put_word(v, instruction.operands[0], v.paging.control(0))
    return False


def put_word(v: Ring1Vcpu, operand: Operand, value: int) -> None:
    """Into a register, as wide as it is; into memory 16 bits."""
    if operand.type == capstone.x86.X86_OP_MEM:
        v.write(v.decoder.linear_32(operand), (value & 0xFFFF).to_bytes(2, "little"))
    else:
        v.decoder.write_register(operand.reg, value & (1 << 8 * operand.size) - 1)


def do_push_segment(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """PUSH CS, PUSH SS."""
    v.push(v.selector(SEGMENT_REGISTERS[instruction.operands[0].reg]), 4)
    return False


def do_mov_segment(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """MOV from CS or SS."""
    target, source = instruction.operands
    put_word(v, target, v.selector(SEGMENT_REGISTERS[source.reg]))
    return False


def do_look(v: Ring1Vcpu, instruction: Instruction) -> bool:
    """LAR, LSL, VERR, VERW: ZF tells whether the selector is one, for this ring."""
    selector = word_operand(v, instruction)
    found = LOOKS[instruction.name](v, selector)
    if found is not None and instruction.name in ("lar", "lsl"):
        v.decoder.write_register(instruction.operands[0].reg, found)
    flags = v.cpu.rflags
    v.cpu.rflags = flags & ~EFLAGS_ZF | (EFLAGS_ZF if found is not None else 0)
    return False


def _visible(v: Ring1Vcpu, selector: int, system_types: frozenset[int]) -> int | None:
    """The descriptor, if the selector may be looked at."""
    if not v.table(selector).holds(selector):
        return None
    word = descriptor(v, selector)
    high = high_of(word)
    if not high & DESC_S:
        if high >> 8 & 0xF not in system_types:
            return None
    elif high & DESC_CODE and high & DESC_CONFORMING:
        return word
    return word if high >> 13 & 3 >= max(v.ring, selector & 3) else None


def _lar(v: Ring1Vcpu, selector: int) -> int | None:
    word = _visible(v, selector, LAR_TYPES)
    return high_of(word) & ACCESS_RIGHTS if word is not None else None


def _lsl(v: Ring1Vcpu, selector: int) -> int | None:
    word = _visible(v, selector, LSL_TYPES)
    return unpack(word)[1] if word is not None else None


def _verr(v: Ring1Vcpu, selector: int) -> int | None:
    word = _visible(v, selector, frozenset())
    if word is None or (high_of(word) & DESC_CODE and not high_of(word) & DESC_WRITABLE):
        return None
    return word


def _verw(v: Ring1Vcpu, selector: int) -> int | None:
    word = _visible(v, selector, frozenset())
    return word if word is not None and high_of(word) & (DESC_CODE | DESC_WRITABLE) == DESC_WRITABLE else None


LOOKS: Final = {"lar": _lar, "lsl": _lsl, "verr": _verr, "verw": _verw}


def do_undefined(_v: Ring1Vcpu, _instruction: Instruction) -> bool:
    """An instruction that this CPU does not advertise."""
    raise GuestException(EXC_UD)


SENSITIVE: Final[dict[str, Handler]] = {
    **dict.fromkeys(("pushfd", "pushf"), do_pushf),
    **dict.fromkeys(("popfd", "popf"), do_popf),
    **dict.fromkeys(("iretd", "iret"), do_iret),
    "sgdt": do_store_gdtr,
    "sidt": do_store_idtr,
    "sldt": do_sldt,
    "str": do_str,
    "smsw": do_smsw,
    **dict.fromkeys(LOOKS, do_look),
    "lcall": do_far_call,
    "rdtsc": do_rdtsc,
    "cpuid": do_cpuid,
    **dict.fromkeys(("syscall", "sysenter", "sysret", "sysexit"), do_undefined),
}
"""By mnemonic; MOV and PUSH are told apart by their operands (`sensitive`)."""
IN_EVERY_RING: Final = frozenset(
    (
        *("pushfd", "pushf", "popfd", "popf", "iretd", "iret", "sgdt", "sidt", "sldt", "str", "smsw"),
        *(*PORTS, "rdtsc", "cpuid", "syscall", "sysenter", "sysret", "sysexit"),
    )
)
"""Those that are translated in ring 3, too; the others are right there as the CPU does them."""
RINGED: Final = (CS, SS)


def sensitive(instruction: Instruction) -> tuple[str, Handler] | None:
    """Its name as a cause of exits, and its handler, if it is such an instruction."""
    operands = instruction.operands
    source = operands[-1] if operands else None
    if source is not None and source.type == capstone.x86.X86_OP_REG:
        segment = SEGMENT_REGISTERS.get(source.reg)
        if segment in RINGED and instruction.name == "push":
            return f"push {'cs' if segment == CS else 'ss'}", do_push_segment
        if segment in RINGED and instruction.name == "mov":
            return f"mov from {'cs' if segment == CS else 'ss'}", do_mov_segment
    name = instruction.name
    return (name, SENSITIVE[name]) if name in SENSITIVE else None
